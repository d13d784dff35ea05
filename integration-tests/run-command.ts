import { execFile } from 'node:child_process';

export interface CommandResult {
  status: number;
  /** Standard output, then standard error. */
  output: string;
}

/** Runs a program to its end. Nothing is inherited that would make it believe in a terminal. */
export function runCommand(
  file: string,
  args: readonly string[],
  { cwd, env = {} }: { cwd: string; env?: NodeJS.ProcessEnv },
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const options = { cwd, env: { ...process.env, NO_COLOR: '1', ...env }, maxBuffer: 1 << 26 };
    execFile(file, args, options, (error, stdout, stderr) => {
      if (error && typeof error.code !== 'number' && !error.signal) reject(error);
      else {
        const status = error ? ((error.code as unknown as number) ?? 128) : 0;
        resolve({ status, output: stdout + stderr });
      }
    });
  });
}

/** As `runCommand`, and throws with the whole output unless the program ends with 0. */
export async function mustRun(
  file: string,
  args: readonly string[],
  options: { cwd: string; env?: NodeJS.ProcessEnv },
): Promise<string> {
  const { status, output } = await runCommand(file, args, options);
  if (status !== 0) {
    throw new Error(`${[file, ...args].join(' ')} ended with ${status}:\n${output}`);
  }
  return output;
}
