import { DeepSpeedError } from '../../errors.ts';
import { isNativeError } from '../../native/native-error.ts';

const operations = new Set(['swapIn', 'swapOut']);

const resume = 'then resume: the last checkpoint is whole';

/** What to do, by the engine's code for the system's reason. */
function fixOf(code: string): string {
  if (code === 'IO_NO_SPACE') {
    return `Free space on that disk, or name a folder of a larger one in nvme_path; ${resume}.`;
  }
  if (code === 'IO_SHORT_FILE') {
    return `Something cut the file while it was in use: keep other programs out of that folder; ${resume}.`;
  }
  return `The disk or its file system failed: look at the system's log, name a folder of another disk in nvme_path; ${resume}.`;
}

/** A failed transfer from or to what stands in for memory, with what to do; null for any other error. */
export function swapFailure(error: unknown): DeepSpeedError | null {
  if (!isNativeError(error) || !operations.has(error.operation ?? '')) return null;
  const { code, message } = error;
  return new DeepSpeedError('OFFLOAD_IO', `${message} (${code})`, {
    fix: fixOf(code),
    cause: error,
    data: { reason: code },
  });
}
