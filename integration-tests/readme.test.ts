/**
 * The README, read as a newcomer does: every file it shows is written down, every command it gives is
 * run in its order, through the built package. Commands that set the machine up are checked against the
 * files that they speak of.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readConfig } from '../src/config/index.ts';
import { codeBlocks, commandsOf } from './markdown.ts';
import { mustRun } from './run-command.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const readme = read('README.md');
const blocks = codeBlocks(readme);
const manifest = JSON.parse(read('package.json')) as {
  scripts: Record<string, string>;
  bin: Record<string, string>;
  peerDependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

const fresh = { recursive: true, force: true };

/** A project inside the repository: `deepspeed-js` is then the package itself. */
let project: string;

beforeAll(async () => {
  await mkdir(join(root, 'runs'), { recursive: true });
  project = await mkdtemp(join(root, 'runs', 'readme-'));
  const pages = (await readdir(join(root, 'docs'))).filter((name) => name.endsWith('.md'));
  const texts = await Promise.all(pages.map((name) => readFile(join(root, 'docs', name), 'utf8')));
  await writeFile(join(project, 'corpus.txt'), texts.join('\n'));
});

afterAll(() => rm(project, fresh));

function runTypeScript(file: string): Promise<string> {
  return mustRun(process.execPath, [join(root, 'node_modules/tsx/dist/cli.mjs'), file], {
    cwd: project,
  });
}

function runBin(name: string, words: string[]): Promise<string> {
  const bin = manifest.bin[name];
  expect(bin, `package.json has no bin ${name}`).toBeDefined();
  return mustRun(process.execPath, [join(root, bin!), ...words], { cwd: project });
}

/** Runs one command of the README, or checks it where running it would change the machine. */
async function follow(command: string): Promise<string> {
  const [program, first, ...rest] = command.split(/\s+/);
  if (program === 'node') return mustRun(process.execPath, [first!], { cwd: project });
  if (program === 'npx' && first === 'tsx') return runTypeScript(rest[0]!);
  if (program === 'npx') return runBin(first!, rest);
  if (program === 'npm' && first === 'install') return checkInstall(rest);
  if (program === 'npm' && first === 'run') {
    expect(manifest.scripts).toHaveProperty([rest[0]!]);
  } else if (program === 'npm') {
    expect(['ci', 'test']).toContain(first);
    expect(manifest.scripts).toHaveProperty(['test']);
  } else if (program === 'apt-get') {
    // The gate installs what the README names, and looks for nothing else but the formatter.
    const tools = /for tool in (.*); do/.exec(read('.ci/run'))![1]!.split(' ');
    expect(rest).toEqual(tools.filter((tool) => tool !== 'clang-format'));
  } else {
    throw new Error(`the README gives a command that this test does not know: ${command}`);
  }
  return '';
}

function checkInstall(words: string[]): string {
  for (const word of words.filter((each) => !each.startsWith('-') && each !== 'deepspeed-js')) {
    const [, name, version] = /^(@?[^@]+)(?:@(.*))?$/.exec(word)!;
    if (version) expect(manifest.peerDependencies[name!]).toBe(version);
    else expect(manifest.devDependencies).toHaveProperty([name!]);
  }
  return '';
}

describe('README', () => {
  it('starts with the two commands', () => {
    expect(commandsOf(blocks[0]!)).toEqual(['npm ci', 'npm run demo', 'npm ci', 'npm test']);
  });

  it('is understood by this test, block by block', () => {
    for (const { language, file, line } of blocks) {
      const understood = language === 'sh' || (file && ['ts', 'js', 'json'].includes(language));
      expect(understood, `block of line ${line}`).toBeTruthy();
    }
  });

  // The files first: the script is shown before its config.
  it('shows files', async () => {
    for (const { file, code } of blocks) if (file) await writeFile(join(project, file), code);
    for (const { file } of blocks) {
      if (file?.endsWith('.json')) {
        const { values } = readConfig(join(project, file));
        expect(values).toMatchObject({ zero_optimization: { stage: 2 } });
      }
    }
  });

  for (const block of blocks.filter(({ language }) => language === 'sh')) {
    for (const command of commandsOf(block)) {
      it(`line ${block.line}: ${command}`, async () => {
        // A fresh start: the commands above have trained to the end.
        if (/--deepspeed .* train.ts$/.test(command)) await rm(join(project, 'out'), fresh);
        const output = await follow(command);
        if (command === 'npx tsx train.ts') {
          expect(existsSync(join(project, 'out/model/onnx/model.onnx'))).toBe(true);
        }
        if (command === 'npx deepspeed-js --num_procs 2 train.ts') {
          expect(output).toContain('resumed from');
          expect(output).toContain('has taken 20 of 20 steps: raise maxSteps');
        }
        if (command.endsWith('sums.mjs')) {
          const losses = [...output.matchAll(/^\d+ (\d+\.\d{4})$/gm)].map(([, loss]) =>
            Number(loss),
          );
          expect(losses).toHaveLength(10);
          expect(losses[9]).toBeLessThan(losses[0]! / 2);
        }
        if (command.includes('--enable_each_rank_log')) {
          expect(readdirSync(join(project, 'logs')).sort()).toEqual(
            ['rank_0.stderr', 'rank_0.stdout', 'rank_1.stderr', 'rank_1.stdout'].sort(),
          );
        }
        if (command.startsWith('npx ds_report')) expect(output).toContain('train_batch_size');
      });
    }
  }

  it('generate.ts writes text with the model that was trained', async () => {
    expect(await runTypeScript('generate.ts')).toMatch(/generated_text: .The/);
  });

  it('finetune.ts trains what is not frozen', async () => {
    expect(await runTypeScript('finetune.ts')).toContain('eval_loss');
  });

  it('a run names the checkpoints that it kept', async () => {
    const train = blocks.find(({ file }) => file === 'train.ts')!.code;
    const script = train
      .replace("outputDir: 'out'", "outputDir: 'out/kept'")
      .replace('maxSteps: 20', 'maxSteps: 3, saveSteps: 1, saveTotalLimit: 1');
    await writeFile(join(project, 'train-kept.ts'), script);
    const output = await runTypeScript('train-kept.ts');
    expect(output.match(/out\/kept\/global_step\d/g)).toEqual(['out/kept/global_step3']);
  });

  it('watched.ts is a strategy', async () => {
    const train = blocks.find(({ file }) => file === 'train.ts')!.code;
    const script = `import './watched.ts';\n${train
      .replace("strategy: 'deepspeed'", "strategy: 'watched'")
      .replace("outputDir: 'out'", "outputDir: 'out/watched'")
      .replace('maxSteps: 20', 'maxSteps: 3')}`;
    await writeFile(join(project, 'train-watched.ts'), script);
    const output = await runTypeScript('train-watched.ts');
    expect(output.match(/step \d+: gradient norm \d+\.\d{3}/g)).toHaveLength(3);
  });
});
