import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { packageVersion } from '../launcher/index.ts';
import { type Environment, inspectEnvironment, isUsable } from './environment.ts';
import { instructionsText, report } from './report.ts';

let folder: string;
let printed: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'report-'));
  printed = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

const model = fileURLToPath(new URL('../../goldens/models/gpt2', import.meta.url));
const writeConfig = (config: object) => {
  const path = join(folder, 'ds_config.json');
  writeFileSync(path, JSON.stringify(config));
  return path;
};

/** A package `name` with nothing but its version, as npm would install it below `at`. */
function install(at: string, name: string, version: string) {
  const target = join(at, 'node_modules', name);
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, 'package.json'), JSON.stringify({ name, version }));
  return target;
}

describe('the environment', () => {
  it('is printed, and given as JSON', async () => {
    await report([]);
    for (const word of [packageVersion, process.versions.node, process.platform, 'engine'])
      expect(printed).toContain(word);
    printed = '';
    await report(['--json']);
    const { environment, config } = JSON.parse(printed) as {
      environment: Environment;
      config: null;
    };
    expect(environment.node.version).toBe(process.versions.node);
    expect(environment.cores.usable).toBeGreaterThanOrEqual(1);
    expect(config).toBeNull();
  });

  it('says whether ranks on several machines can be joined by MPI, and how they could', async () => {
    vi.stubEnv('DEEPSPEED_JS_ADDON', join(folder, 'deepspeed.node'));
    await report([]);
    expect(printed).toMatch(/MPI +not built: runs on this machine only/);
    expect(printed).toContain('apt-get install libopenmpi-dev openmpi-bin');
    printed = '';
    writeFileSync(join(folder, 'deepspeed_mpi.so'), '');
    await report([]);
    expect(printed).toMatch(/MPI +built; /);
  });

  it('says which ONNX Runtime counts: the one that transformers.js finds', () => {
    const transformers = install(folder, '@huggingface/transformers', '4.3.1');
    install(folder, 'onnxruntime-node', '1.30.0');
    vi.spyOn(process, 'cwd').mockReturnValue(folder);
    const installed = inspectEnvironment().peers.filter(({ version }) => version !== null);
    expect(installed.map(({ supported }) => supported)).toEqual([true, true]);

    install(transformers, 'onnxruntime-node', '1.99.0');
    const environment = inspectEnvironment();
    expect(environment.peers).toContainEqual({
      name: 'onnxruntime-node',
      version: '1.99.0',
      required: '1.30.0',
      supported: false,
    });
    expect(isUsable(environment)).toBe(false);
  });

  it.each([
    ['4.22.0', true],
    ['4.22.10', true],
    ['4.3.0', false],
    ['4.23.0', false],
  ])('takes TensorFlow.js by its range: %s %s', (version, supported) => {
    install(folder, '@tensorflow/tfjs', version);
    vi.spyOn(process, 'cwd').mockReturnValue(folder);
    const peers = inspectEnvironment().peers.filter(({ name }) => name === '@tensorflow/tfjs');
    expect(peers).toMatchObject([{ version, supported }]);
  });

  it('does not need peers that are not installed', () => {
    vi.spyOn(process, 'cwd').mockReturnValue(folder);
    const environment = inspectEnvironment();
    expect(environment.peers.filter(({ version }) => version !== null)).toEqual([]);
    expect(isUsable(environment)).toBe(true);
  });
});

describe('--config', () => {
  it('explains the effective config, with the batch of that many ranks', async () => {
    const path = writeConfig({ train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 2 });
    await report(['--config', path, '--num_procs', '4']);
    expect(printed).toContain('effective config for 4 ranks:');
    expect(printed).toMatch(/train_batch_size +24 +computed/);
  });

  it('explains what is for TensorFlow.js scripts, which bring their batch size', async () => {
    await report(['--config', writeConfig({ tfjs: { exact_random: true, declared: ['mine'] } })]);
    expect(printed).toMatch(/tfjs\.exact_random +true/);
    expect(printed).toMatch(/tfjs\.declared +\["mine"\]/);
    expect(printed).toContain('note: no batch size is given');
  });

  it('fills "auto" as a Trainer would, and says that it did', async () => {
    const path = writeConfig({
      train_batch_size: 'auto',
      optimizer: { type: 'AdamW', params: { lr: 'auto' } },
    });
    await report(['--config', path, '--num_procs', '2']);
    expect(printed).toContain('defaults of a Trainer');
    expect(printed).toMatch(/train_batch_size +16 +auto/);
    expect(printed).toMatch(/optimizer\.params\.lr +0\.00005 +auto/);
  });

  it('explains the config of the example', async () => {
    const example = fileURLToPath(
      new URL('../../examples/pretrain-gpt/ds_config.json', import.meta.url),
    );
    await report(['--config', example, '--model', model, '--num_procs', '2']);
    expect(printed).toMatch(/scheduler\.params\.total_num_steps +1,000 +auto/);
    expect(printed).toMatch(/zero_optimization\.stage +2 +file/);
    expect(printed).toContain('warning: the default of zero_optimization.allgather_bucket_size');
  });

  it('warns of defaults that exceed the model', async () => {
    const path = writeConfig({ train_batch_size: 8, zero_optimization: { stage: 2 } });
    await report(['--config', path, '--model', model, '--num_procs', '2']);
    expect(printed).toContain('warning: the default of zero_optimization.reduce_bucket_size');
    printed = '';
    await report(['--config', path, '--num_procs', '2']);
    expect(printed).not.toContain('warning');
  });

  it.each([
    [['--model', model], 'LAUNCHER_USAGE'],
    [['--confg', 'x'], 'LAUNCHER_USAGE'],
    [['--config', 'missing.json'], 'CONFIG_NOT_FOUND'],
  ])('refuses %j', async (words, code) => {
    await expect(report(words)).rejects.toMatchObject({ code });
  });

  it('refuses a config whose batch sizes do not fit the ranks', async () => {
    const path = writeConfig({ train_batch_size: 8, train_micro_batch_size_per_gpu: 3 });
    await expect(report(['--config', path, '--num_procs', '2'])).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
  });
});

describe('instructions', () => {
  it('are named, the ones in use first', () => {
    expect(instructionsText(['avx2', 'portable'])).toBe('avx2 (also compiled in: portable)');
  });

  it('say that and why the portable ones are slow, which is no error', () => {
    vi.stubEnv('DEEPSPEED_JS_ISA', '');
    expect(instructionsText(['portable'])).toMatch(/^portable: this processor has none of AVX2/);
    vi.stubEnv('DEEPSPEED_JS_ISA', 'portable');
    expect(instructionsText(['portable'])).toMatch(/^portable: DEEPSPEED_JS_ISA asks for it/);
  });

  it('are told once in a whole report where they are the portable ones', () => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [
        '--import',
        import.meta.resolve('tsx'),
        fileURLToPath(new URL('ds-report.ts', import.meta.url)),
      ],
      { encoding: 'utf8', env: { ...process.env, DEEPSPEED_JS_ISA: 'portable' } },
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.match(/portable/gi)).toHaveLength(1);
    expect(stdout).toMatch(/^instructions +portable: .* several times slower$/m);
  });
});
