/** The check's side of one agent: starts it, gives orders, and knows when it is lost. */
import { type ChildProcess, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { packageVersion } from '../package-version.ts';
import {
  type Abandon,
  type AgentHello,
  type Answer,
  type Greeting,
  type Order,
  parseLine,
} from './agent-protocol.ts';
import { endWithThisProcess } from './children.ts';
import type { LossKind } from './probes.ts';

export interface AgentStart {
  /** Of its machine. */
  name: string;
  program: string;
  words: readonly string[];
  /** By which the others reach its machine. */
  address: string;
  token: string;
  /** Patience with one that falls silent. */
  patienceMs: number;
}

export interface Loss {
  kind: LossKind;
  evidence: string;
}

/** Patience with one that does not come: a login, and a Node that starts on a machine that may be busy. */
const LEAST_START_MS = 30_000;
const KNOCK_MS = 2000;
const TURN_MS = 250;

export class HostAgent {
  /** Settles with its hello, or when it is lost. */
  readonly ready: Promise<void>;
  loss: Loss | null = null;
  readonly #start: AgentStart;
  readonly #child: ChildProcess;
  readonly #timer: NodeJS.Timeout;
  readonly #awaited = new Map<number, (answer: Answer | null) => void>();
  #hello: AgentHello['hello'] | null = null;
  #heard = Date.now();
  #said = '';
  #isKnocking = false;
  #settle!: () => void;

  constructor(start: AgentStart) {
    this.#start = start;
    this.ready = new Promise((resolve) => {
      this.#settle = resolve;
    });
    const child = spawn(start.program, start.words, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child = child;
    endWithThisProcess(child);
    child.on('error', (error) => this.#lose('unreachable', error.message));
    child.stdin!.on('error', () => {}); // its end says it
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#said = `${this.#said}${text}`.slice(-2000);
    });
    createInterface({ input: child.stdout! }).on('line', (line) => this.#hear(line));
    child.on('close', (status, signal) => this.#ended(status ?? signal));
    this.#tell({ token: start.token });
    this.#timer = setInterval(() => this.#watch(), TURN_MS);
  }

  get name(): string {
    return this.#start.name;
  }

  get place(): Order['places'][number] {
    return { address: this.#start.address, port: this.#hello!.port };
  }

  /** Null: it is lost. */
  ask(order: Order): Promise<Answer | null> {
    if (this.loss !== null) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.#awaited.set(order.id, resolve);
      this.#tell(order);
    });
  }

  /** The others of an order have given it up. */
  abandon(id: number): void {
    if (this.#awaited.has(id)) this.#tell({ abandon: id });
  }

  /** The end of its input ends it; one that is lost may not notice, and what started it goes by force. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null || this.#child.pid === undefined) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin!.end();
    const force = setTimeout(() => this.#child.kill('SIGKILL'), this.loss === null ? 2000 : 0);
    await gone;
    clearTimeout(force);
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream!.destroy();
  }

  #tell(message: Greeting | Order | Abandon): void {
    this.#child.stdin!.write(`${JSON.stringify(message)}\n`);
  }

  #hear(line: string): void {
    this.#heard = Date.now();
    const said = parseLine<AgentHello & Answer>(line);
    if (said?.hello !== undefined) {
      this.#hello = said.hello;
      const { version } = said.hello;
      if (version !== packageVersion)
        this.#lose('other version', `it has deepspeed-js ${version}, here is ${packageVersion}`);
      this.#settle();
    } else if (said !== null) {
      this.#awaited.get(said.id)?.(said);
      this.#awaited.delete(said.id);
    }
  }

  #watch(): void {
    const silentMs = Date.now() - this.#heard;
    const { patienceMs } = this.#start;
    const isStarting = this.#hello === null;
    const limitMs = isStarting ? Math.max(patienceMs, LEAST_START_MS) : patienceMs;
    if (this.loss !== null || this.#isKnocking || silentMs <= limitMs) return;
    const seconds = Math.round(limitMs / 1000);
    if (isStarting) {
      this.#lose('unreachable', `nothing was heard of it for ${seconds} s${this.#lastWords()}`);
      return;
    }
    this.#isKnocking = true;
    void knock(this.place).then((answers) => {
      this.#isKnocking = false;
      // It may have come back meanwhile.
      if (Date.now() - this.#heard <= patienceMs) return;
      const silence = `its agent (process ${this.#hello!.pid}) has been silent for ${seconds} s`;
      if (answers) this.#lose('stopped', `${silence}, and its machine answers`);
      else this.#lose('cut off', `${silence}, and so is its machine`);
    });
  }

  #ended(status: number | NodeJS.Signals | null): void {
    const how = `${this.#start.program} ended with ${status}${this.#lastWords()}`;
    this.#lose(this.#hello === null ? 'unreachable' : 'died', how);
  }

  #lose(kind: LossKind, evidence: string): void {
    this.loss ??= { kind, evidence };
    for (const resolve of this.#awaited.values()) resolve(null);
    this.#awaited.clear();
    this.#settle();
  }

  #lastWords(): string {
    const line = this.#said.trim().split('\n').at(-1);
    return line ? `: ${line}` : '';
  }
}

/** Whether the system of that machine takes a connection, which it does for a process that stands still, too. */
function knock({ address, port }: Order['places'][number]): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const settle = (answers: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answers);
    };
    const timer = setTimeout(settle, KNOCK_MS, false);
    socket.on('connect', () => settle(true));
    // Turned away is an answer as well.
    socket.on('error', ({ code }: NodeJS.ErrnoException) => settle(code === 'ECONNREFUSED'));
  });
}
