import { loadAddon } from '../../native/index.ts';
import type { HostContext } from './context.ts';

/**
 * A rank that ends while others train leaves them waiting. It says so itself, with the place in the
 * script, and whoever then waits for it fails with these words.
 */
export function leaveWithReason(context: HostContext): void {
  const leave = (reason: string) => {
    if (context.joined) return context.runtime.communicator.leave(reason);
    // Before a rank trains it has no communicator, and others may wait for it to begin; those whom it has not met over
    // MPI hear of it from the launcher.
    const addon = loadAddon();
    addon.leaveRun(reason);
    addon.tellLauncher(JSON.stringify({ left: reason }));
  };
  const { exit } = process;
  process.exit = ((code) => {
    leave(`rank ${context.rank} called process.exit(${code ?? ''})\n${placeInScript()}`);
    return exit.call(process, code);
  }) as typeof process.exit;
  process.once('exit', () => leave(`rank ${context.rank} reached the end of its script`));
}

/** Frames of the script; of its dependencies where there are no others. */
function placeInScript(): string {
  const frames = new Error().stack?.split('\n').slice(3) ?? [];
  const own = frames.filter((frame) => !/[/\\]node_modules[/\\]|node:/.test(frame));
  return (own.length > 0 ? own : frames).slice(0, 4).join('\n');
}
