import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { DeepSpeedError } from '../../errors.ts';

/**
 * The terminal is rank 0's: to the others standard input is empty, and a script that reads its data there
 * would train on nothing. The first attempt to read ends the run, by `process.stdin` or by descriptor 0.
 * Looking at the stream (is it a terminal?) is harmless.
 */
export function refuseStdin(rank: number): void {
  if (rank === 0) return;
  const stop = (): never => {
    throw new DeepSpeedError(
      'STDIN_ON_RANK',
      `the script reads standard input, which only rank 0 has; rank ${rank} would see nothing`,
    );
  };
  refuseStream(stop);
  refuseDescriptor(stop);
}

function refuseStream(stop: () => never): void {
  const original = Object.getOwnPropertyDescriptor(process, 'stdin');
  if (!original?.get) return;
  const open = original.get;
  let refused: NodeJS.ReadStream | undefined;
  Object.defineProperty(process, 'stdin', {
    ...original,
    get() {
      refused ??= refusing(open.call(process) as NodeJS.ReadStream, stop);
      return refused;
    },
  });
}

function refusing(stream: NodeJS.ReadStream, stop: () => never): NodeJS.ReadStream {
  const { on } = stream;
  const listen = (event: string | symbol, ...rest: unknown[]) => {
    if (event === 'data' || event === 'readable') stop();
    return Reflect.apply(on, stream, [event, ...rest]);
  };
  Object.assign(stream, { on: listen, addListener: listen, read: stop, pipe: stop, resume: stop });
  Object.defineProperty(stream, Symbol.asyncIterator, { value: stop });
  return stream;
}

const readers = ['readFileSync', 'readSync', 'openSync', 'readFile', 'read', 'open'] as const;
const paths = new Set<unknown>([0, '/dev/stdin', '/dev/fd/0', '/proc/self/fd/0']);

/** What reads by a descriptor or a name of it, as `readFileSync(0)`. */
function refuseDescriptor(stop: () => never): void {
  for (const [module, names] of [
    [fs, readers],
    [fs.promises, ['readFile', 'open']],
  ] as const) {
    const functions = module as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const name of names) {
      const original = functions[name]!;
      const refused = (...args: unknown[]) => (paths.has(args[0]) ? stop() : original(...args));
      // `promisify` finds what it needs in a property.
      functions[name] = Object.defineProperties(
        refused,
        Object.getOwnPropertyDescriptors(original),
      );
    }
  }
  syncBuiltinESMExports();
}
