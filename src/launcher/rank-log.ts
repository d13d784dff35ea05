/** The files of `--enable_each_rank_log DIR`: `rank_<r>.stdout` and `rank_<r>.stderr`. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { makeFolder } from '../folders.ts';
import { DeepSpeedError } from '../errors.ts';

/** One file. A disk that fills up ends the log, not the run. */
export class RankLog {
  readonly path: string;
  readonly fd: number;
  readonly #warn: (text: string) => void;
  #open = true;

  constructor(path: string, warn: (text: string) => void) {
    this.path = path;
    this.fd = openSync(path, 'w');
    this.#warn = warn;
  }

  write(text: string): void {
    if (!this.#open) return;
    try {
      writeSync(this.fd, text);
    } catch (error) {
      this.close();
      this.#warn(`${this.path} ends here: ${(error as Error).message}`);
    }
  }

  close(): void {
    if (this.#open) closeSync(this.fd);
    this.#open = false;
  }
}

export interface RankLogs {
  stdout: RankLog;
  stderr: RankLog;
}

/**
 * Creates the folder and both files of every rank; files of an earlier run are overwritten.
 *
 * @throws DeepSpeedError RANK_LOG_NOT_WRITABLE
 */
export function openRankLogs(
  folder: string,
  ranks: number,
  warn: (text: string) => void,
): RankLogs[] {
  const path = resolve(folder);
  try {
    makeFolder(path);
    return Array.from({ length: ranks }, (_, rank) => ({
      stdout: new RankLog(join(path, `rank_${rank}.stdout`), warn),
      stderr: new RankLog(join(path, `rank_${rank}.stderr`), warn),
    }));
  } catch (cause) {
    throw new DeepSpeedError(
      'RANK_LOG_NOT_WRITABLE',
      `cannot write the logs of the ranks to ${path}: ${(cause as Error).message}`,
      { cause, data: { path } },
    );
  }
}
