/**
 * `npm run bench -- NAME [--json] [--only CASE] [--table FILE]`: runs bench/NAME.ts, prints its figures and
 * aims. With --table its table is appended to a file, so that cases run one by one make one table.
 */
import { appendFileSync, existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { built } from '../integration-tests/built.ts';
import { type Bench, isMet, markdown, type Report } from './lib.ts';

const helpers = new Set(['run.ts', 'lib.ts', 'corpus.ts']);

function benchNames(): string[] {
  return readdirSync(fileURLToPath(new URL('.', import.meta.url)))
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !helpers.has(file))
    .map((file) => file.slice(0, -3));
}

async function load(name: string): Promise<Bench> {
  return ((await import(`./${name}.ts`)) as { default: Bench }).default;
}

async function usage(): Promise<never> {
  console.error('npm run bench -- NAME [--json] [--only CASE] [--table FILE]');
  for (const name of benchNames())
    console.error(`  ${name.padEnd(14)} ${(await load(name)).about}`);
  process.exit(2);
}

function print({ figures, aims }: Report): void {
  const width = Math.max(...Object.keys(figures).map((name) => name.length));
  for (const [name, value] of Object.entries(figures))
    console.log(`${name.padEnd(width)}  ${value === null ? 'not measured' : value.toPrecision(4)}`);
  for (const aim of aims) {
    const met = isMet(aim);
    const verdict = met === null ? 'NOT MEASURED' : met ? 'met' : 'MISSED';
    const value = aim.value === null ? 'null' : aim.value.toPrecision(4);
    console.log(`aim: ${aim.name} ${value} ${aim.op} ${aim.aim}: ${verdict}`);
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    table: { type: 'string' },
  },
});
const name = positionals[0];
if (name === undefined || positionals.length > 1 || !benchNames().includes(name)) await usage();
else {
  built();
  const report = await (await load(name)).run({
    log: (line) => console.log(line),
    only: values.only,
  });
  print(report);
  if (report.table) {
    console.log(`\n${markdown(report.table, true)}`);
    if (values.table)
      appendFileSync(values.table, markdown(report.table, !existsSync(values.table)));
  }
  if (values.json) console.log(JSON.stringify({ bench: name, ...report }));
}
