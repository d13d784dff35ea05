import { DeepSpeedError } from '../../errors.ts';

/**
 * The terminal is rank 0's: to the others standard input is empty, and a script that reads its data there
 * would train on nothing. The first attempt to read ends the run. Looking at the stream (is it a terminal?)
 * is harmless.
 */
export function refuseStdin(rank: number): void {
  if (rank === 0) return;
  const original = Object.getOwnPropertyDescriptor(process, 'stdin');
  if (!original?.get) return;
  const open = original.get;
  let refused: NodeJS.ReadStream | undefined;
  Object.defineProperty(process, 'stdin', {
    ...original,
    get() {
      refused ??= refuse(open.call(process) as NodeJS.ReadStream, rank);
      return refused;
    },
  });
}

function refuse(stream: NodeJS.ReadStream, rank: number): NodeJS.ReadStream {
  const stop = (): never => {
    throw new DeepSpeedError(
      'STDIN_ON_RANK',
      `the script reads standard input, which only rank 0 has; rank ${rank} would see nothing`,
    );
  };
  const { on } = stream;
  const listen = (event: string | symbol, ...rest: unknown[]) => {
    if (event === 'data' || event === 'readable') stop();
    return Reflect.apply(on, stream, [event, ...rest]);
  };
  Object.assign(stream, { on: listen, addListener: listen, read: stop, pipe: stop, resume: stop });
  Object.defineProperty(stream, Symbol.asyncIterator, { value: stop });
  return stream;
}
