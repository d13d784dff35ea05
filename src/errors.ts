/**
 * Every error a user can meet. One table: the code, what happened in a few words, and the usual fix.
 * `docs/errors.md` is generated from it; an error is data first and prose last.
 */
export const errorCodes = {
  CONFIG_INVALID: {
    title: 'The DeepSpeed config is not valid',
    fix: 'Correct the keys listed; `ds_report --config FILE` explains the effective config.',
  },
  CONFIG_NOT_FOUND: {
    title: 'The config file cannot be read',
    fix: 'Check the path; it is resolved from the working directory.',
  },
  NOT_AVAILABLE_YET: {
    title: 'A documented DeepSpeed feature that this version does not have',
    fix: 'Remove the key or set it to its default; docs/deepspeed-keys.md lists what is available.',
  },
  INTERNAL: {
    title: 'A fault of deepspeed-js itself',
    fix: 'Please report it with the message and the stack.',
  },
} as const satisfies Record<string, { title: string; fix: string }>;

export type ErrorCode = keyof typeof errorCodes;

export interface ErrorDetails {
  /** What to do, when it is more specific than the table's advice. */
  fix?: string;
  cause?: unknown;
  /** Facts for programs: rank, peer, operation, path, node, ... */
  data?: Record<string, unknown>;
}

/**
 * The one error type of the library.
 *
 * @example
 * throw new DeepSpeedError('CONFIG_NOT_FOUND', `cannot read ${path}`, { data: { path } });
 */
export class DeepSpeedError extends Error {
  readonly code: ErrorCode;
  readonly fix: string;
  readonly data: Record<string, unknown>;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'DeepSpeedError';
    this.code = code;
    this.fix = details.fix ?? errorCodes[code].fix;
    this.data = details.data ?? {};
  }

  /** What the command line prints: the message, then the fix on its own line. */
  render(): string {
    return `${this.message}\n  fix: ${this.fix}\n  (${this.code})`;
  }
}
