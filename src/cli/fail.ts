import { DeepSpeedError } from '../errors.ts';
import { isNativeError, renderNativeError } from '../native/index.ts';

/** Runs a command to its exit status; an error becomes what a user should read of it. */
export async function runCommand(name: string, command: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await command();
  } catch (error) {
    process.exitCode = error instanceof DeepSpeedError && error.code === 'LAUNCHER_USAGE' ? 2 : 1;
    process.stderr.write(`${name}: ${describe(error)}\n`);
  }
}

function describe(error: unknown): string {
  if (error instanceof DeepSpeedError) return error.render();
  if (isNativeError(error)) return renderNativeError(error);
  const stack = error instanceof Error ? error.stack : undefined;
  return `a fault of deepspeed-js itself; please report it\n${stack ?? String(error)}`;
}
