// Writes the pages that are rendered from source: `npm run docs`. A test fails when one is not current.
import { writeFileSync } from 'node:fs';
import { renderKeysPage } from '../src/config/keys-page.ts';
import { renderErrorsPage } from '../src/errors-page.ts';

const pages = {
  'docs/deepspeed-keys.md': renderKeysPage,
  'docs/errors.md': renderErrorsPage,
};
for (const [path, render] of Object.entries(pages)) {
  writeFileSync(new URL(`../${path}`, import.meta.url), render());
}
