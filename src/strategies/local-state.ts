import type { NativeBuffer } from '../native/contract.ts';

/** State that one rank alone has, for checkpoints. */
export interface LocalState {
  /** In shard files. */
  readonly name: string;
  readonly buffer: NativeBuffer;
  /** fp32 elements. */
  readonly count: number;
  /**
   * Where a checkpoint has none for this rank: zeros, said once (the default); what is there already, in a tensor that
   * a checkpoint fills before; or rank 0's, since it is the same on all.
   */
  readonly otherwise?: 'kept' | 'rank 0';
}
