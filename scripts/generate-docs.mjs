// Writes the pages that are rendered from source: `npm run docs`. With --check it writes nothing and
// fails when a page is not current.
import { readFileSync, writeFileSync } from 'node:fs';
import { renderKeysPage } from '../src/config/keys-page.ts';
import { renderErrorsPage } from '../src/errors-page.ts';

const check = process.argv.includes('--check');
const pages = {
  'docs/deepspeed-keys.md': renderKeysPage,
  'docs/errors.md': renderErrorsPage,
};
for (const [path, render] of Object.entries(pages)) {
  const file = new URL(`../${path}`, import.meta.url);
  if (!check) {
    writeFileSync(file, render());
  } else if (readFileSync(file, 'utf8') !== render()) {
    console.error(`${path} is not current\n  fix: npm run docs`);
    process.exitCode = 1;
  }
}
