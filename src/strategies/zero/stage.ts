export type ZeroStage = 0 | 1 | 2 | 3;

/** Bytes that a rank holds all the time, by category of the memory account. */
export interface ZeroBytes {
  parameters: number;
  gradients: number;
  optimizer: number;
  /** 16-bit storage: fp32 weights of the optimizer, and what the model reads widened. */
  master: number;
  window: number;
  /** 16-bit copies of gradients for the wire. */
  communication: number;
  /** Buffers of what is offloaded to disk. */
  io: number;
}
