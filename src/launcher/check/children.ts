/**
 * What a check has started ends with it. Where it is killed, the end of their standard input ends them; where it leaves by
 * itself, they are not waited for: a login to a machine that is cut off would stay for minutes.
 */
import type { ChildProcess } from 'node:child_process';

const running = new Set<ChildProcess>();

export function endWithThisProcess(child: ChildProcess): void {
  if (running.size === 0) process.on('exit', endAll);
  running.add(child);
  const forget = () => {
    running.delete(child);
    if (running.size === 0) process.off('exit', endAll);
  };
  child.once('exit', forget);
  child.once('error', forget); // it was never started
}

function endAll(): void {
  for (const child of running) child.kill('SIGKILL');
}
