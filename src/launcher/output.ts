/**
 * One terminal for many ranks: rank 0 speaks as if it were alone, the standard errors of the others
 * come line by line with their rank in front, and the last lines of each are kept for the report of
 * a failure. Nothing is read faster than it can be written.
 */
import type { Readable, Writable } from 'node:stream';
import { styleText } from 'node:util';
import type { RankLog } from './rank-log.ts';

/** As many of its last lines as the report of a failed rank shows. */
const TAIL_LINES = 30;
/** A line longer than this is passed on in pieces. */
const LONGEST_LINE = 65_536;

/** Writes to one stream from many relays; a full stream holds all of them. */
export class Terminal {
  readonly #stream: Writable & { isTTY?: boolean };
  #drained: Promise<void> | null = null;
  /** Set once a run is being stopped: what ranks say from then on is consequence, kept in their tails. */
  muted = false;

  constructor(stream: Writable & { isTTY?: boolean }) {
    this.#stream = stream;
    // A reader that went away (`| head`) must not end the run: the ranks decide when it ends.
    stream.on('error', () => {});
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY === true;
  }

  async write(text: string): Promise<void> {
    await this.#drained;
    if (!this.#stream.writable || this.#stream.write(text)) return;
    this.#drained ??= new Promise<void>((resolve) => {
      const done = () => {
        this.#stream.off('drain', done).off('close', done);
        this.#drained = null;
        resolve();
      };
      this.#stream.on('drain', done).on('close', done);
    });
    await this.#drained;
  }

  /** Colour only where somebody looks, and never against NO_COLOR (https://no-color.org). */
  style(format: 'cyan' | 'red' | 'yellow', text: string): string {
    return this.isTerminal && !process.env.NO_COLOR ? styleText(format, text) : text;
  }
}

/** Cuts a stream of text into lines, without their ends; of a line redrawn with `\r` the last state. */
export class LineSplitter {
  #rest = '';

  push(chunk: string): string[] {
    const pieces = (this.#rest + chunk).split('\n');
    this.#rest = pieces.pop() ?? '';
    if (this.#rest.length > LONGEST_LINE) {
      pieces.push(this.#rest);
      this.#rest = '';
    }
    return pieces.map(lastState);
  }

  /** The line that the stream ended in, if any. */
  flush(): string[] {
    const rest = this.#rest;
    this.#rest = '';
    return rest === '' ? [] : [lastState(rest)];
  }
}

function lastState(line: string): string {
  const visible = line.endsWith('\r') ? line.slice(0, -1) : line;
  return visible.slice(visible.lastIndexOf('\r') + 1);
}

/** The last lines of a stream. */
export class Tail {
  readonly #lines: string[] = [];

  push(lines: readonly string[]): void {
    this.#lines.push(...lines);
    if (this.#lines.length > TAIL_LINES) this.#lines.splice(0, this.#lines.length - TAIL_LINES);
  }

  get lines(): readonly string[] {
    return this.#lines;
  }
}

export interface RelayOptions {
  /** Put before each line; null passes the text on as it comes, partial lines too. */
  prefix: string | null;
  terminal: Terminal;
  tail: Tail | null;
  /** Everything is also written here. */
  log: RankLog | null;
}

/** Passes a rank's output on until it ends. */
export async function relay(source: Readable, options: RelayOptions): Promise<void> {
  const { prefix, terminal, tail, log } = options;
  const splitter = new LineSplitter();
  const show = async (lines: string[]) => {
    tail?.push(lines);
    if (prefix !== null && lines.length > 0 && !terminal.muted)
      await terminal.write(lines.map((line) => `${prefix}${line}\n`).join(''));
  };
  source.setEncoding('utf8');
  try {
    for await (const chunk of source as AsyncIterable<string>) {
      log?.write(chunk);
      if (prefix === null && !terminal.muted) await terminal.write(chunk);
      await show(splitter.push(chunk));
    }
  } catch {
    // The pipe broke or was given up: what came so far is what there is.
  }
  await show(splitter.flush());
}
