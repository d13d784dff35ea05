import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { DeepSpeedError } from '../errors.ts';
import type { MonitorFolder } from './events.ts';

/** Makes `<output_path>/<job_name>` and says so by name when that is impossible. */
export function makeOutputFolder({ output_path, job_name }: MonitorFolder): string {
  const folder = join(output_path, job_name);
  return writing(folder, () => {
    makeFolder(folder);
    return folder;
  });
}

/** Runs a write; a failure names the path. */
export function writing<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
    throw new DeepSpeedError('OUTPUT_NOT_WRITABLE', `cannot write ${path}: ${reason}`, {
      cause,
      data: { path },
    });
  }
}
