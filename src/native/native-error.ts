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
