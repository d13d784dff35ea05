import type { DeepSpeedConfig } from '../../config/index.ts';
import { slotAlignment } from '../../layout.ts';
import type { SwapOptions } from '../../native/contract.ts';

/** What lives on disk between its uses, and how it comes and goes (ZeRO-Infinity, 2104.07857). */
export interface OffloadSettings {
  readonly optimizer: OptimizerOffload | null;
  readonly parameters: ParameterOffload | null;
  /** Elements of the shard that are updated together. */
  readonly subGroupSize: number;
  readonly aio: SwapOptions;
}

export interface OptimizerOffload {
  readonly path: string;
  /** Of the elements, from the end of the shard. */
  readonly ratio: number;
  /** Tensors of a sub-group's length that fit in memory at once. */
  readonly bufferCount: number;
  /** Read the next sub-group while one is updated. */
  readonly pipelineRead: boolean;
  /** Write the one before while one is updated. */
  readonly pipelineWrite: boolean;
}

export interface ParameterOffload {
  readonly path: string;
  /** Elements of the shard that stay in memory. */
  readonly maxInMemory: number;
}

/** Elements whose bytes direct I/O moves in one piece, whatever their type: 4096 bytes of 16-bit ones. */
export const swapUnit = 2048;

/** Of `elements`, those that stay in memory where `wanted` may. */
export function elementsKept(elements: number, wanted: number): number {
  return wanted >= elements ? elements : Math.floor(wanted / swapUnit) * swapUnit;
}

/** Elements of the frozen parameters' shard that may stay in memory beside a trained shard of `trained`. */
export function frozenKept({ parameters }: OffloadSettings, trained: number): number {
  return Math.max(0, (parameters?.maxInMemory ?? Number.POSITIVE_INFINITY) - trained);
}

/** Where slots of the flat buffer begin: parameters and their gradients are moved by direct I/O. */
export function layoutAlignment(settings: OffloadSettings | null): number {
  return settings ? swapUnit : slotAlignment;
}

/** Null where nothing goes to disk. */
export function offloadSettings(config: DeepSpeedConfig | null): OffloadSettings | null {
  if (!config) return null;
  const { offload_optimizer: states, offload_param: parameters } = config.zero_optimization;
  if (states.device !== 'nvme' && parameters.device !== 'nvme') return null;
  const { aio } = config;
  return {
    optimizer:
      states.device === 'nvme'
        ? {
            path: states.nvme_path!,
            ratio: states.ratio,
            bufferCount: states.buffer_count,
            pipelineRead: states.pipeline_read,
            pipelineWrite: states.pipeline_write,
          }
        : null,
    parameters:
      parameters.device === 'nvme'
        ? { path: parameters.nvme_path!, maxInMemory: parameters.max_in_cpu }
        : null,
    subGroupSize: config.zero_optimization.sub_group_size,
    aio: {
      blockSize: aio.block_size,
      queueDepth: aio.queue_depth,
      threads: aio.intra_op_parallelism,
      singleSubmit: aio.single_submit,
      overlapEvents: aio.overlap_events,
    },
  };
}
