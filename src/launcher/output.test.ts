import { Readable, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { LineSplitter, relay, Tail, Terminal } from './output.ts';

/** Takes one write at a time, and counts how much was pushed at it while it was full. */
class SlowStream extends Writable {
  text = '';
  mostWaiting = 0;

  constructor() {
    super({ highWaterMark: 16, decodeStrings: false });
  }

  override _write(chunk: string, _encoding: string, done: () => void): void {
    this.mostWaiting = Math.max(this.mostWaiting, this.writableLength);
    setImmediate(() => {
      this.text += chunk;
      done();
    });
  }
}

describe('LineSplitter', () => {
  const whole = 'one\ntwo\r\n10%\r50%\r100%\n\nlast';
  const lines = ['one', 'two', '100%', '', 'last'];

  it('gives the same lines however the text is cut', () => {
    for (let size = 1; size <= whole.length; size++) {
      const splitter = new LineSplitter();
      const found: string[] = [];
      for (let at = 0; at < whole.length; at += size)
        found.push(...splitter.push(whole.slice(at, at + size)));
      expect([...found, ...splitter.flush()]).toEqual(lines);
    }
  });

  it('does not keep a line without end in memory', () => {
    const splitter = new LineSplitter();
    const pieces = Array.from({ length: 5 }, () => splitter.push('x'.repeat(20_000))).flat();
    expect(pieces.join('') + splitter.flush().join('')).toBe('x'.repeat(100_000));
    expect(pieces.length).toBeGreaterThan(0);
  });
});

it('Tail keeps the last 30 lines', () => {
  const tail = new Tail();
  const lines = Array.from({ length: 75 }, (_, index) => String(index));
  tail.push(lines.slice(0, 40));
  tail.push(lines.slice(40));
  expect(tail.lines).toEqual(lines.slice(-30));
});

describe('relay', () => {
  const chunks = Array.from({ length: 200 }, (_, index) => `line ${index}\n`);

  it('writes no faster than the terminal takes it, for many sources', async () => {
    const stream = new SlowStream();
    const terminal = new Terminal(stream);
    const ranks = Array.from({ length: 12 }, (_, rank) => rank);
    await Promise.all(
      ranks.map((rank) =>
        relay(Readable.from(chunks), { prefix: `${rank}: `, terminal, tail: null, log: null }),
      ),
    );
    await new Promise((done) => stream.end(done));
    const lines = stream.text.split('\n');
    for (const rank of ranks)
      expect(lines.filter((line) => line.startsWith(`${rank}: `))).toEqual(
        chunks.map((chunk) => `${rank}: ${chunk.trimEnd()}`),
      );
    // At most one waiting write a source: nothing piles up.
    expect(stream.mostWaiting).toBeLessThanOrEqual(ranks.length * '11: line 199\n'.length);
    expect(stream.listenerCount('drain') + stream.listenerCount('close')).toBeLessThanOrEqual(2);
  });

  it('keeps the tail, and stays silent, once the terminal is muted', async () => {
    const stream = new SlowStream();
    const terminal = new Terminal(stream);
    terminal.muted = true;
    const tail = new Tail();
    await relay(Readable.from(chunks), { prefix: '', terminal, tail, log: null });
    expect(stream.text).toBe('');
    expect(tail.lines.at(-1)).toBe('line 199');
  });

  it('goes on reading when nobody takes the output any more', async () => {
    const stream = new SlowStream();
    const terminal = new Terminal(stream);
    const tail = new Tail();
    setImmediate(() => stream.destroy(new Error('EPIPE')));
    await relay(Readable.from(chunks), { prefix: '', terminal, tail, log: null });
    expect(tail.lines.at(-1)).toBe('line 199');
  });
});
