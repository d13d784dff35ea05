/**
 * README and the pages under docs, held against what is there: links, anchors, files, flags, error codes and
 * config keys that they name; every config that docs show is valid, every script and command runs. What README
 * shows is run by readme.test.ts.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readConfig, resolveConfig, trainerAutos } from '../src/config/index.ts';
import { listKeys } from '../src/config/list-keys.ts';
import { table } from '../src/config/table.ts';
import { errorCodes } from '../src/errors.ts';
import { engineCodes } from '../src/native/engine-codes.ts';
import { anchors, codeBlocks, commandsOf, inlineCode, links } from './markdown.ts';
import { mustRun } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const docs = readdirSync(join(root, 'docs'))
  .filter((name) => name.endsWith('.md'))
  .map((name) => `docs/${name}`);
const pages = ['README.md', ...docs];
const sources = ['src', 'addon', 'scripts', 'integration-tests', 'examples', 'goldens'].flatMap(
  (folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map(
      (path) => `/${folder}/${path}`,
    ),
);

/** Of TensorFlow.js's optimizers, and a file. */
const notKeys = new Set(['optimizer.minimize', 'tfjs.ts']);

/** A project inside the repository: `deepspeed-js` is then the package itself. */
let project: string;

beforeAll(async () => {
  await mkdir(join(root, 'runs'), { recursive: true });
  project = await mkdtemp(join(root, 'runs', 'docs-'));
});

afterAll(() => rm(project, { recursive: true, force: true }));

describe.each(pages)('%s', (page) => {
  const text = read(page);
  const names = inlineCode(text);

  it('links to files and headings that exist', () => {
    for (const { path, anchor } of links(text)) {
      const target = path === '' ? page : join(dirname(page), path);
      expect(existsSync(join(root, target)), `${page} links to ${target}`).toBe(true);
      if (anchor !== undefined) expect(anchors(read(target))).toContain(anchor);
    }
  });

  it('names source files that exist', () => {
    const files = names.filter((name) => /^[\w./-]+\.(ts|mjs|cc|h|py)$/.test(name));
    const absent = files.filter((file) => !sources.some((path) => path.endsWith(`/${file}`)));
    // A script of the reader's, and a header of node-addon-api.
    expect(absent.filter((file) => !/^(train\.\w+|napi\.h)$/.test(file))).toEqual([]);
  });

  it('names config keys that exist', () => {
    const paths = listKeys().map(({ path }) => path.replace(/ .*$/, ''));
    const known = new Set(paths.flatMap((path) => [path, path.replace(/\.\w+$/, '')]));
    const named = names.filter((name) => {
      const [, section] = /^(\w+)\.[a-z0-9_.]+$/.exec(name) ?? [];
      return section !== undefined && Object.hasOwn(table, section) && !notKeys.has(name);
    });
    expect(named.filter((name) => !known.has(name))).toEqual([]);
  });

  it('names error codes that exist', () => {
    const code =
      /^(CHECKPOINT|CONFIG|COMM|DATASET|LAYOUT|LAUNCHER|MODEL|OFFLOAD|ORT|ADDON)_[A-Z_]+$/;
    expect(
      names.filter(
        (name) => code.test(name) && !Object.hasOwn({ ...errorCodes, ...engineCodes }, name),
      ),
    ).toEqual([]);
  });
});

describe('a config that docs show', () => {
  const configs = docs.flatMap((page) =>
    codeBlocks(read(page))
      .filter(({ language }) => language === 'json')
      .map(({ code, line }) => ({ place: `${page}:${line}`, code })),
  );

  it.each(configs)('$place is valid', async ({ place, code }) => {
    const file = join(project, `${basename(place).replace(':', '-')}.json`);
    await writeFile(file, code);
    const raw = readConfig(file);
    // Fragments leave the batch to the reader's own file, and "auto" to the Trainer.
    raw.values.train_micro_batch_size_per_gpu ??= 2;
    const facts = { worldSize: 2, totalSteps: 100_000, hiddenSize: 64 };
    const { provenance } = resolveConfig(raw, { ...facts, autos: trainerAutos({}, {}, facts) });
    expect(provenance.warnings).toEqual([]);
  });
});

const tinyGpt2 = {
  model_type: 'gpt2',
  vocab_size: 16,
  n_positions: 512,
  n_embd: 8,
  n_layer: 2,
  n_head: 2,
};
const gpt2 = `
  import { AutoModelForCausalLM, Trainer, tokenBlocks } from 'deepspeed-js/transformers';
  const model = AutoModelForCausalLM.fromConfig(${JSON.stringify(tinyGpt2)});
  const trainDataset = tokenBlocks(Array(64).fill(1), 8);
`;

/** What a page's scripts take for granted, and what they come to. */
const surroundings: Record<string, { before?: string; after?: string; prints?: RegExp }> = {
  'docs/memory.md': { before: gpt2 },
  'docs/migrate.md': {
    before: `
      import { writeFileSync } from 'node:fs';
      writeFileSync('ds_config.json', '{ "optimizer": { "type": "SGD", "params": { "lr": 0.5 } } }');
      const w = Float32Array.of(1, 2);
      const b = Float32Array.of(0);
      const batchesOf = (rank, ranks) => [rank, ranks];
      const gradientsOf = () => ({ w: Float32Array.of(1, 1), b: Float32Array.of(2) });`,
    // Two steps of -0.5 times the gradient.
    after: `
      console.log('migrate', ...w, ...b);
      await engine.saveCheckpoint('out', 'global_step100');
      await engine.close();`,
    prints: /^migrate 0 1 -2$/m,
  },
  'docs/sparse-attention.md': {},
  'docs/tfjs.md': {
    before: `
      import * as tf from '@tensorflow/tfjs';
      const dense = tf.layers.dense({ units: 1, inputShape: [2] });
      const model = tf.sequential({ layers: [dense] });
      const optimizer = tf.train.sgd(0.1);
      const loss = (found, wanted) => tf.losses.meanSquaredError(wanted, found);
      const batch = { xs: tf.ones([4, 2]), ys: tf.zeros([4, 1]) };`,
  },
  'docs/zero.md': {
    before: `${gpt2}
      const trainer = new Trainer({
        model,
        trainDataset,
        args: { outputDir: 'out-zero', maxSteps: 1, saveStrategy: 'no', reportTo: [] },
      });
      await trainer.train();`,
    after: `
      const norm = await trainer.getFullFp32Param('transformer.h.1.ln_1.weight');
      console.log('zero', new Set(norm));
      await trainer.close();`,
    prints: /^zero Set\(1\) \{ 1 \}$/m,
  },
};

describe('what docs tell to run', () => {
  it('scripts, in one process', async () => {
    let everything = '';
    for (const page of docs) {
      const scripts = codeBlocks(read(page)).filter(({ language }) => /^[jt]s$/.test(language));
      if (scripts.length > 0) expect(Object.keys(surroundings)).toContain(page);
      for (const { code, line } of scripts) {
        const { before = '', after = '' } = surroundings[page]!;
        const name = `${basename(page, '.md')}-${line}.ts`;
        await writeFile(join(project, name), `// @ts-nocheck\n${before}\n${code}\n${after}\n`);
        everything += `await import('./${name}');\n`;
      }
    }
    await writeFile(join(project, 'everything.ts'), everything);
    const tsx = join(root, 'node_modules/tsx/dist/cli.mjs');
    const output = await mustRun(process.execPath, [tsx, 'everything.ts'], { cwd: project });
    for (const { prints } of Object.values(surroundings))
      if (prints) expect(output).toMatch(prints);
  });

  // After the scripts, one of which leaves a checkpoint in `out`.
  describe('commands', () => {
    const commands = docs.flatMap((page) =>
      codeBlocks(read(page))
        .filter(({ language }) => /^(ba)?sh$/.test(language))
        .flatMap((block) => commandsOf(block)),
    );

    beforeAll(async () => {
      for (const name of ['train.js', 'train.ts'])
        await writeFile(join(project, name), "console.log('trained', process.argv.slice(2));\n");
      await mkdir(join(project, 'model-folder'));
      await writeFile(join(project, 'model-folder/config.json'), JSON.stringify(tinyGpt2));
      const config = { train_batch_size: 4, sparse_attention: { mode: 'fixed' } };
      await writeFile(join(project, 'ds_config.json'), JSON.stringify(config));
    });

    it.each(commands)('%s', async (command) => {
      const [npx, program, ...words] = command.split(/\s+/);
      expect([npx, program]).toEqual(['npx', 'deepspeed-js']);
      const script = words.findIndex((word) => word.startsWith('train.'));
      const own = script < 0 ? words : words.slice(0, script);
      const known = await flagsOf(subcommands.filter((name) => name === own[0]));
      expect(own.filter((word) => word.startsWith('-') && !known.has(word))).toEqual([]);
      // Other machines have tests of their own.
      if (own.includes('--hostfile')) return;
      const ranks = own.indexOf('--num_procs') + 1;
      if (ranks > 0) words[ranks] = '2';
      const output = await run(words);
      const out = own.indexOf('--out') + 1;
      if (out > 0) expect(existsSync(join(project, own[out]!))).toBe(true);
      if (script >= 0) expect(output).toContain('trained');
    });
  });
});

const subcommands = ['check', 'report', 'layout', 'estimate', 'zero_to_fp32'];

function run(words: readonly string[]): Promise<string> {
  return mustRun(process.execPath, [join(root, 'dist/cli/deepspeed.js'), ...words], {
    cwd: project,
  });
}

const flags = new Map<string, Promise<Set<string>>>();

/** Flags that the help of a command has, long and short. */
function flagsOf(command: string[]): Promise<Set<string>> {
  const name = command.join(' ');
  if (!flags.has(name)) flags.set(name, run([...command, '--help']).then(flagsIn));
  return flags.get(name)!;
}

function flagsIn(text: string): Set<string> {
  return new Set(text.match(/(?<![\w-])--?[a-z]\w*/gi) ?? []);
}

it('docs name flags that some command has', async () => {
  const all = await Promise.all([[], ...subcommands.map((name) => [name])].map(flagsOf));
  const known = new Set(all.flatMap((each) => [...each]));
  for (const page of docs) {
    const cells = [...read(page).matchAll(/^\| `(-[^|]*)\|/gm)].map(([, cell]) => cell!);
    for (const flag of cells.flatMap((cell) => [...flagsIn(cell)]))
      expect(known, `${page}: ${flag}`).toContain(flag);
  }
});

it.each([
  ['docs/launcher.md', []],
  ['docs/check.md', ['check']],
])('%s names every flag', async (page, command) => {
  const named = flagsIn(read(page));
  const found = [...(await flagsOf(command))].filter((flag) => /^--(?!help$|version$)/.test(flag));
  expect(found.filter((flag) => !named.has(flag))).toEqual([]);
});
