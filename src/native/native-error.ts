import { errorCodes } from '../errors.ts';
import { engineCodes } from './engine-codes.ts';

/** What the native engine throws: an Error named `NativeError` with these fields. */
export interface NativeError extends Error {
  /** Stable, e.g. COMM_MISMATCH, COMM_PEER_DIED, OUT_OF_MEMORY, INVALID_ARGUMENT, DISPOSED. */
  code: string;
  /** What was being done, e.g. `allReduce`. */
  operation?: string;
  rank?: number;
  peer?: number;
}

export function isNativeError(error: unknown): error is NativeError {
  return error instanceof Error && error.name === 'NativeError';
}

/** What to do about it; undefined for a code that is not on the page of errors. */
function fixOf(code: string): string | undefined {
  const known: Record<string, { fix: string }> = { ...errorCodes, ...engineCodes };
  return known[code]?.fix;
}

/** What the command line prints, as `DeepSpeedError.render` does: the message, the fix, the code. */
export function renderNativeError({ message, code }: NativeError): string {
  const fix = fixOf(code);
  return `${message}${fix === undefined ? '' : `\n  fix: ${fix}`}\n  (${code})`;
}
