import { DeepSpeedError } from '../errors.ts';
import type { NativeBuffer } from '../native/contract.ts';

/** A place in engine memory. */
export interface Location {
  buffer: NativeBuffer;
  byteOffset: number;
}

/** What a host can do. A strategy that needs more stops at start-up. */
export type Capability =
  /** Forward and backward run in segments, each announced by hooks. */
  | 'segments'
  /** A segment can be left out of a step. */
  | 'layerSkipping'
  /** Attention in the model can be replaced by another kernel. */
  | 'attentionReplacement'
  /** Parameters may live elsewhere between the segments that use them. */
  | 'gatheredParameters'
  /** Activations can be computed again in backward instead of being kept. */
  | 'activationCheckpointing';

/** A parameter that training does not change, as the host announces it. */
export interface FrozenParameter {
  /** The model's own name, e.g. `transformer.h.0.attn.c_attn.weight`. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Segments that read it, ascending. */
  readonly segments: readonly number[];
  /** Segments whose backward pass reads it, ascending. Absent: all of `segments`. */
  readonly readBackward?: readonly number[];
  /** Every pass that reads it takes it in 16 bits, where that is how the session stores parameters. */
  readonly takes16Bits?: boolean;
  /** For a tile of a tensor that is moved by parts: users and checkpoints know the tensor. */
  readonly part?: TensorPart;
}

/** A trainable parameter. Its gradient is complete after the backward of the first of its segments. */
export interface HostParameter extends FrozenParameter {
  /** Index into the session's optimizer groups. */
  readonly group: number;
}

/** Where the elements of a tile are in its tensor. */
export interface TensorPart {
  readonly of: string;
  /** Of the tensor. */
  readonly shape: readonly number[];
  /** First element, row-major. */
  readonly start: number;
}

/** An attention of queries to keys of the same sequence, in the host's model. */
export interface SelfAttention {
  readonly heads: number;
  readonly length: number;
  readonly causal: boolean;
  /** Positions of the longest sample, where the host has padded to `length`. */
  readonly longest?: number;
}

/** `heads[h]`, [⌈length/block⌉, ⌈length/block⌉] row-major: 1 where a block of the scores is computed. */
export interface AttentionBlocks {
  readonly block: number;
  readonly heads: readonly Uint8Array[];
}

/** The trainer's side of the contract, as strategies see it. */
export interface Host {
  readonly name: string;
  readonly capabilities: ReadonlySet<Capability>;
  /** Segment names in forward order. */
  readonly segments: readonly string[];
  /** Trainable parameters in the order in which backward completes their gradients. */
  readonly parameters: readonly HostParameter[];
  /**
   * Parameters that no optimizer touches: frozen ones, and those that the loss does not depend on. The
   * session holds them, rank 0's values are made everybody's, and checkpoints store them.
   */
  readonly frozen?: readonly FrozenParameter[];
  /**
   * Segments that a plan may leave out or scale, ascending: the layers of a residual stream, which share no
   * trainable parameter with another segment. For hosts with "layerSkipping".
   */
  readonly skippable?: readonly number[];
  /** Of one micro batch, for a host that plans them. */
  readonly activationBytes?: number;
  /**
   * Positions of the longest sequence that the model takes; "fixed": all sequences have one length. Absent where
   * nobody knows. For hosts with "attentionReplacement".
   */
  readonly longestSequence?: number | 'fixed' | undefined;
  /**
   * From now on the model's self-attention computes these blocks alone, in evaluation, too. Asked again for
   * every sequence length. For hosts with "attentionReplacement", before parameters are written.
   *
   * @returns the attentions that are replaced, and name and reason of those that stay dense
   */
  replaceAttention?(blocksOf: (attention: SelfAttention) => AttentionBlocks): {
    replaced: readonly SelfAttention[];
    dense: readonly string[];
  };
}

/** Throws unless the host has the capability that a config key needs. */
export function requireCapability(
  host: Pick<Host, 'name' | 'capabilities'>,
  capability: Capability,
  key: string,
): void {
  if (host.capabilities.has(capability)) return;
  throw new DeepSpeedError(
    'HOST_LACKS_CAPABILITY',
    `${key} needs a host with "${capability}", which the ${host.name} host does not have`,
    { data: { host: host.name, capability, key } },
  );
}

/** The trained parameters that the host reads as they are stored, where that is in 16 bits. */
export function takes16Bits({ parameters }: Pick<Host, 'parameters'>): Set<string> {
  return new Set(parameters.filter((one) => one.takes16Bits).map(({ name }) => name));
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
