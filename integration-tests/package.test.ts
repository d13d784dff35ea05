/**
 * The package as npm ships it: packed, installed into an empty project without any install script, and
 * used there. The two peers are linked from this repository's node_modules, since they are large.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import manifest from '../package.json' with { type: 'json' };
import { links } from './markdown.ts';
import { installNode, otherNodeVersions } from './other-nodes.ts';
import { mustRun, runCommand } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const platform = `${process.platform}-${process.arch}`;
const node = process.execPath;
const quiet = ['--no-audit', '--no-fund', '--prefer-offline'];

/** What a user writes: two steps of a tiny model on all ranks. */
const trainingScript = `
import { AutoModelForCausalLM, Trainer, tokenBlocks } from 'deepspeed-js/transformers';

const model = AutoModelForCausalLM.fromConfig({
  model_type: 'gpt2', vocab_size: 64, n_positions: 16, n_embd: 32, n_layer: 1, n_head: 2,
});
const tokens: number[] = Array.from({ length: 16 * 32 }, (_, index) => (index * 7) % 64);
const trainer = new Trainer({
  model,
  trainDataset: tokenBlocks(tokens, 16),
  args: { outputDir: 'out', maxSteps: 2, saveStrategy: 'no', reportTo: [] },
});
const { globalStep, metrics } = await trainer.train();
console.log(\`node \${process.versions.node}: step \${globalStep} on \${metrics.world_size} ranks\`);
`;
const dsConfig = `{
  "train_micro_batch_size_per_gpu": 2,
  "zero_optimization": { "stage": 2 }
}`;

let folder: string;
let project: string;
let packed: string[];
const installed = () => join(project, 'node_modules', 'deepspeed-js');

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'deepspeed-js-package-'));
  project = join(folder, 'project');
  await mkdir(project);
  await writeFile(join(project, 'package.json'), '{ "private": true, "type": "module" }\n');
  const answer = execFileSync(
    'npm',
    ['pack', '--ignore-scripts', '--json', '--pack-destination', folder],
    { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const [{ filename, files }] = JSON.parse(answer);
  packed = files.map((file: { path: string }) => file.path);
  await mustRun('npm', ['install', '--ignore-scripts', ...quiet, join(folder, filename)], {
    cwd: project,
  });
}, 300_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

async function linkPeers(): Promise<void> {
  for (const name of ['@huggingface/transformers', 'onnxruntime-node', '@types/node']) {
    const target = join(project, 'node_modules', name);
    if (existsSync(target)) continue;
    await mkdir(dirname(target), { recursive: true });
    await symlink(join(root, 'node_modules', name), target);
  }
}

describe('the tarball', () => {
  it('holds what a user needs', () => {
    expect(packed).toEqual(
      expect.arrayContaining([
        'LICENSE',
        'README.md',
        'CHANGELOG.md',
        'docs/deepspeed-keys.md',
        'dist/index.d.ts',
        'dist/ds_config.schema.json',
        'dist/build-id.json',
        `prebuilds/${platform}/deepspeed.node`,
        'addon/CMakeLists.txt',
        'scripts/build-addon.mjs',
      ]),
    );
  });

  it('holds nothing else', () => {
    const known =
      /^(dist|prebuilds|addon|scripts|examples)\/|^docs\/[\w-]+\.md$|^bench\/RESULTS\.md$|^(LICENSE|README\.md|CHANGELOG\.md|package\.json)$/;
    expect(packed.filter((path) => !known.test(path))).toEqual([]);
    // Headers of the C++ tests belong to the sources that the build id is made from.
    const tests = packed.filter((path) => /test|fixture|golden/.test(path));
    expect(tests.filter((path) => !/^addon\/.*testing\.h$/.test(path))).toEqual([]);
  });

  it('holds what its documents link to', () => {
    const pages = packed.filter((path) => path.endsWith('.md') && !path.startsWith('dist/'));
    for (const page of pages) {
      const text = readFileSync(join(root, page), 'utf8');
      for (const { path } of links(text).filter(({ path }) => path !== '')) {
        const target = join(dirname(page), path);
        const found = packed.some((file) => file === target || file.startsWith(`${target}/`));
        expect(found, `${page} links to ${target}`).toBe(true);
      }
    }
  });

  it('needs no install script and no dependency that has one', () => {
    const hooks = ['preinstall', 'install', 'postinstall'];
    expect(Object.keys(manifest.scripts).filter((name) => hooks.includes(name))).toEqual([]);
    expect(existsSync(join(root, 'binding.gyp'))).toBe(false);
  });

  it.runIf(process.platform === 'linux')('links the C++ library statically', () => {
    const addon = join(root, 'prebuilds', platform, 'deepspeed.node');
    const dynamic = execFileSync('readelf', ['-d', addon], { encoding: 'utf8' });
    const needed = [...dynamic.matchAll(/NEEDED.*\[(.*)\]/g)].map(([, name]) => name!);
    expect(needed.length).toBeGreaterThan(0);
    expect(needed.filter((name) => /stdc\+\+|libgcc/.test(name))).toEqual([]);
    // Of that library only what is used: the rest would ask for a newer glibc.
    const symbols = execFileSync('readelf', ['--dyn-syms', '--wide', addon], { encoding: 'utf8' });
    expect(symbols).toContain('napi_register_module_v1');
    expect(symbols).not.toMatch(/arc4random|random_device/);
  });
});

describe('every subpath', () => {
  const subpaths = Object.keys(manifest.exports).map((key) => `deepspeed-js${key.slice(1)}`);

  it.each(subpaths)('%s can be required', async (specifier) => {
    const print = `console.log(Object.keys(require('${specifier}')).length)`;
    const output = await mustRun(node, ['--input-type=commonjs', '-e', print], { cwd: project });
    expect(Number.parseInt(output, 10)).toBeGreaterThan(0);
  });

  it.each(subpaths)('%s can be imported', async (specifier) => {
    const options = specifier.endsWith('.json') ? ", { with: { type: 'json' } }" : '';
    const print = `console.log(Object.keys(await import('${specifier}'${options})).length)`;
    const output = await mustRun(node, ['--input-type=module', '-e', print], { cwd: project });
    expect(Number.parseInt(output, 10)).toBeGreaterThan(0);
  });

  // Neither peer is installed at this point.
  it('loads without transformers.js and ONNX Runtime, which are asked for when training starts', async () => {
    expect(existsSync(join(project, 'node_modules', 'onnxruntime-node'))).toBe(false);
    const find = `
      const { createRequire } = await import('node:module');
      const { DeepSpeedError } = await import('deepspeed-js');
      const { AutoModelForCausalLM, Trainer, tokenBlocks } = await import('deepspeed-js/transformers');
      const model = AutoModelForCausalLM.fromConfig({ model_type: 'gpt2', vocab_size: 64, n_positions: 16, n_embd: 32, n_layer: 1, n_head: 2 });
      const trainer = new Trainer({ model, trainDataset: tokenBlocks(Array(512).fill(1), 16), args: { outputDir: 'out' } });
      await trainer.train().catch((error) => console.log(error instanceof DeepSpeedError, error.code, error.fix));
    `;
    const output = await mustRun(node, ['--input-type=module', '-e', find], { cwd: project });
    const { peerDependencies: peers } = manifest;
    expect(output).toContain(
      `true ORT_MISSING Run: npm install @huggingface/transformers@${peers['@huggingface/transformers']} onnxruntime-node@${peers['onnxruntime-node']}`,
    );
  });
});

describe('a consumer in TypeScript', () => {
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const strict = ['--noEmit', '--strict', '--target', 'es2022', '--types', 'node'];

  beforeAll(async () => {
    await linkPeers();
    await writeFile(join(project, 'train.ts'), trainingScript);
    await writeFile(join(project, 'ds_config.json'), dsConfig);
    await writeFile(
      join(project, 'strategy.ts'),
      `import { applyDeepSpeed, registerStrategy, type StrategyPlugin, getRunEnvironment } from 'deepspeed-js';
       const plugin: StrategyPlugin = { name: 'mine', apply: (context) => applyDeepSpeed(context) };
       registerStrategy('mine', () => plugin);
       export const rank: number = getRunEnvironment()?.rank ?? 0;\n`,
    );
    await writeFile(
      join(project, 'tfjs.ts'),
      `import { shard, withStrategy } from 'deepspeed-js/tfjs';
       const [rows]: number[][] = shard([[1, 2]]);
       export const model: { rows?: number[] } = withStrategy({ rows }, { strategy: 'ddp' });\n`,
    );
    await writeFile(
      join(project, 'wrong.ts'),
      `import { Trainer } from 'deepspeed-js/transformers';\nnew Trainer({ model: 1 });\n`,
    );
  });

  it.each([
    ['node16', 'node16'],
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ])('is type-checked under module %s, resolution %s', async (module, resolution) => {
    const flags = [...strict, '--module', module, '--moduleResolution', resolution];
    const files = ['train.ts', 'strategy.ts', 'tfjs.ts', 'wrong.ts'];
    const { output } = await runCommand(node, [tsc, ...flags, ...files], { cwd: project });
    const faults = [...output.matchAll(/^(.+)\(\d+,\d+\): error TS2\d+/gm)];
    expect(faults.map(([, file]) => file)).toEqual(['wrong.ts']);
  });
});

describe('the launcher of the package', () => {
  const words = ['--num_procs', '2', '--deepspeed', 'ds_config.json'];

  beforeAll(async () => {
    await linkPeers();
    await writeFile(join(project, 'ds_config.json'), dsConfig);
    await writeFile(join(project, 'train.ts'), trainingScript);
    // What type stripping leaves, for a Node that cannot strip.
    await writeFile(join(project, 'train.js'), trainingScript.replace(': number[]', ''));
  });

  it('trains on two ranks through the installed command', async () => {
    const bin = join(project, 'node_modules', '.bin', 'deepspeed-js');
    const output = await mustRun(bin, [...words, 'train.js'], { cwd: project });
    expect(output).toContain('step 2 on 2 ranks');
  });

  const strips = Boolean((process.features as { typescript?: unknown }).typescript);
  it.skipIf(strips)('names what runs TypeScript where neither Node nor tsx does', async () => {
    const bin = join(project, 'node_modules', '.bin', 'deepspeed-js');
    const { status, output } = await runCommand(bin, [...words, 'train.ts'], { cwd: project });
    expect(status).toBe(1);
    expect(output).toContain('SCRIPT_NOT_RUNNABLE');
    expect(output).toContain('fix: npm install --save-dev tsx, or use Node 22.18 or newer.');
  });

  it('reports through the installed command', async () => {
    const bin = join(project, 'node_modules', '.bin', 'ds_report');
    expect(await mustRun(bin, ['--config', 'ds_config.json'], { cwd: project })).toContain(
      manifest.version,
    );
  });

  it.runIf(process.platform === 'linux').each(otherNodeVersions)(
    'trains a TypeScript file on two ranks under Node %s',
    async (version) => {
      const binary = await installNode(version);
      const bin = join(installed(), manifest.bin['deepspeed-js']);
      const output = await mustRun(binary, [bin, ...words, 'train.ts'], { cwd: project });
      expect(output).toContain(`node ${version}: step 2 on 2 ranks`);
    },
    300_000,
  );
});
