/**
 * What every bench shares: peers as processes of their own, alternating measurement, and the report.
 * A peer answers each line on its input with one line: to `run`, the seconds that one pass took.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, extname, join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface Aim {
  name: string;
  /** Null where a peer that it needs is not installed. */
  value: number | null;
  op: '>=' | '<=';
  aim: number;
}

/** Rows as they go into bench/RESULTS.md, the first the head. */
export type Table = string[][];

export interface Report {
  figures: Record<string, number | null>;
  aims: Aim[];
  /** The same figures to be read by people; `npm run bench -- NAME --table FILE` appends it. */
  table?: Table;
}

export interface BenchOptions {
  /** What is printed while it runs; nothing must go to stdout otherwise. */
  log(line: string): void;
  /** Measure only the cases whose name contains this. */
  only: string;
}

/** A bench: `bench/NAME.ts` has one as its default export. */
export interface Bench {
  /** One line for the list of benches. */
  about: string;
  run(options: BenchOptions): Promise<Report>;
}

/** Something measured: seconds of one pass. */
export interface Subject {
  name: string;
  run(): number | Promise<number>;
}

export interface Measured {
  median: number;
  min: number;
  max: number;
  /** (max − min) / median. */
  spread: number;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('a median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * Between which two of the values the median of what they were drawn from lies, in 95 of 100 cases at least, whatever their
 * distribution: so many lie below it as heads fall in as many throws of a coin. Null for fewer than six values.
 */
export function medianInterval(values: readonly number[]): [number, number] | null {
  const sorted = [...values].sort((a, b) => a - b);
  const count = sorted.length;
  let below = 0.5 ** count;
  let tail = below;
  let rank = -1;
  for (let heads = 0; tail <= 0.025; heads += 1) {
    rank = heads;
    below *= (count - heads) / (heads + 1);
    tail += below;
  }
  return rank < 0 ? null : [sorted[rank]!, sorted[count - 1 - rank]!];
}

/**
 * Seconds of each subject: `warmup` rounds unseen, then `rounds` in which every subject runs once, in
 * turn, so that a slow minute of the machine hits all of them.
 */
export async function measure(
  subjects: readonly Subject[],
  { warmup = 2, rounds = 15 } = {},
): Promise<Map<string, Measured>> {
  const samples = new Map<string, number[]>(subjects.map(({ name }) => [name, []]));
  for (let round = -warmup; round < rounds; round++) {
    for (const subject of subjects) {
      const seconds = await subject.run();
      if (round >= 0) samples.get(subject.name)!.push(seconds);
    }
  }
  return new Map(
    [...samples].map(([name, values]) => {
      const min = Math.min(...values);
      const max = Math.max(...values);
      const middle = median(values);
      return [name, { median: middle, min, max, spread: (max - min) / middle }];
    }),
  );
}

/** Seconds that `body` takes. */
export async function timed(body: () => unknown): Promise<number> {
  const start = process.hrtime.bigint();
  await body();
  return Number(process.hrtime.bigint() - start) / 1e9;
}

const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '..');

/** A process that measures itself. */
export class Peer implements Subject {
  readonly name: string;
  private readonly child: ChildProcess;
  private readonly lines: Interface;
  private readonly answers: AsyncIterator<string>;
  private errors = '';

  private constructor(name: string, child: ChildProcess) {
    this.name = name;
    this.child = child;
    this.lines = createInterface({ input: child.stdout! });
    this.answers = this.lines[Symbol.asyncIterator]();
    child.stderr!.on('data', (data: Buffer) => {
      this.errors = (this.errors + data).slice(-2000);
    });
    child.stdin!.on('error', () => {}); // it may be gone: the missing answer tells
  }

  /** Starts it and waits until it says `ready`; null, with the reason logged, where it cannot. */
  static async start(
    name: string,
    command: string,
    args: string[],
    log: (line: string) => void,
    environment: Record<string, string> = {},
  ): Promise<Peer | null> {
    const env = { ...process.env, ...environment };
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], cwd: root, env });
    const failed = new Promise<null>((resolve) => child.once('error', () => resolve(null)));
    const peer = new Peer(name, child);
    if ((await Promise.race([peer.ready(), failed])) !== null) return peer;
    log(`${name}: not available here (${peer.lastError() ?? `${command} does not start`})`);
    child.kill('SIGKILL');
    return null;
  }

  private lastError(): string | undefined {
    return this.errors.trim().split('\n').at(-1) || undefined;
  }

  async run(request = 'run'): Promise<number> {
    const answer = await this.ask(request);
    const seconds = Number(answer);
    if (!(seconds > 0)) throw new Error(`${this.name} answered ${answer}`);
    return seconds;
  }

  /** One line out, one line back. */
  async ask(request: string): Promise<string> {
    this.child.stdin!.write(`${request}\n`);
    const { value, done } = await this.answers.next();
    if (done) throw new Error(`${this.name} ended: ${this.lastError() ?? 'it said nothing'}`);
    return value as string;
  }

  /** The end of its input ends it, and so the processes that it started; one that stays is killed. */
  async stop(): Promise<void> {
    this.lines.close();
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.stdin!.end();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await ended;
    clearTimeout(timer);
  }

  /** Libraries print to stdout too: lines before `ready` are theirs. */
  private async ready(): Promise<true | null> {
    for (;;) {
      const { value, done } = await this.answers.next();
      if (done) return null;
      if (value === 'ready') return true;
    }
  }
}

/**
 * A peer of `bench/peers/SCRIPT`, run by the Python that PEERS_PYTHON names. What torch.compile makes is
 * kept from one bench to the next.
 */
export function pythonPeer(
  name: string,
  script: string,
  args: string[],
  { log }: BenchOptions,
): Promise<Peer | null> {
  const [program, ...words] = pythonCommand(script, args);
  const cache = { TORCHINDUCTOR_CACHE_DIR: join(root, 'build', 'bench', 'inductor') };
  return Peer.start(name, program!, words, log, cache);
}

/** The command of `bench/peers/SCRIPT`. */
export function pythonCommand(script: string, args: string[]): string[] {
  const python = process.env.PEERS_PYTHON ?? join(homedir(), 'peers', 'bin', 'python');
  return [python, join(here, 'peers', script), ...args];
}

/**
 * A limit of `bench/limits/SOURCE`, compiled for this processor or as for a lesser one (a name that
 * compilers know). Throws where it does not compile.
 */
export async function limitPeer(
  name: string,
  source: string,
  args: string[],
  options: BenchOptions,
  processor?: string,
): Promise<Peer> {
  const peer = await limitHere(name, source, args, options, processor);
  if (!peer) throw new Error(`${source} does not run`);
  return peer;
}

/** The same, or null where this processor does not have it. */
export function limitHere(
  name: string,
  source: string,
  args: string[],
  { log }: Pick<BenchOptions, 'log'>,
  processor?: string,
): Promise<Peer | null> {
  const program = compile(process.env.CXX ?? 'c++', join('limits', source), processor);
  return Peer.start(name, program, args, log);
}

/** Compiles `bench/SOURCE` for a processor and returns the program. */
export function compile(compiler: string, source: string, processor = 'native'): string {
  const folder = join(root, 'build', 'bench', dirname(source));
  mkdirSync(folder, { recursive: true });
  const program = join(folder, `${basename(source, extname(source))}-${processor}`);
  const tune = `-march=${processor}`;
  const flags = ['-std=c++20', '-O3', tune, '-pthread', `-I${join(root, 'addon')}`];
  const built = spawnSync(compiler, [...flags, join(here, source), '-o', program], {
    encoding: 'utf8',
  });
  if (built.status !== 0 || !existsSync(program))
    throw new Error(`${source} does not compile: ${built.stderr ?? built.error?.message}`);
  return program;
}

/** Ranks of `bench/ranks/SCRIPT`, started by the launcher; rank 0 answers for all. */
export async function rankPeer(
  name: string,
  script: string,
  { worldSize, args, isa }: { worldSize: number; args: string[]; isa?: string },
  { log }: Pick<BenchOptions, 'log'>,
): Promise<Peer> {
  const launcher = join(root, 'src', 'cli', 'deepspeed.ts');
  const command = ['--import', 'tsx', launcher, '--num_procs', String(worldSize)];
  const rest = [join(here, 'ranks', script), ...args];
  const peer = await Peer.start(name, process.execPath, [...command, ...rest], log, withIsa(isa));
  if (!peer) throw new Error(`${script} does not run`);
  return peer;
}

/** The environment in which our kernels are those of one instruction set. */
export function withIsa(isa: string | undefined): Record<string, string> {
  return isa === undefined ? {} : { DEEPSPEED_JS_ISA: isa };
}

/** Markdown of a table: its head, if wanted, and its rows. */
export function markdown([head, ...rows]: Table, withHead: boolean): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |\n`;
  const top = withHead && head ? line(head) + line(head.map(() => '---')) : '';
  return top + rows.map(line).join('');
}

export function isMet({ value, op, aim }: Aim): boolean | null {
  if (value === null) return null;
  return op === '>=' ? value >= aim : value <= aim;
}
