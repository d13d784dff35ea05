import type { HostContext } from './context.ts';

/**
 * A rank that ends while others train leaves them waiting. It says so itself, with the place in the
 * script, and whoever then waits for it fails with these words.
 */
export function leaveWithReason(context: HostContext): void {
  const leave = (reason: string) => {
    if (context.joined) context.runtime.communicator.leave(reason);
  };
  const { exit } = process;
  process.exit = ((code) => {
    const stack = new Error().stack?.split('\n').slice(2, 6).join('\n') ?? '';
    leave(`rank ${context.rank} called process.exit(${code ?? ''})\n${stack}`);
    return exit.call(process, code);
  }) as typeof process.exit;
  process.once('exit', () => leave(`rank ${context.rank} reached the end of its script`));
}
