/**
 * The whole native surface, as TypeScript sees it. `addon/binding` implements exactly this; nothing
 * else crosses the boundary. Validated scalars, buffers and tagged handles only: one call per
 * bucket or segment, never per tensor element. Every native failure arrives as a `NativeError`.
 */
import type { DataType } from '../graph/ir.ts';

/** Element types of collectives and storage. */
export type FloatType = 'float32' | 'float16' | 'bfloat16' | 'float64';

/** What engine memory is held for. */
export type MemoryCategory =
  | 'parameters'
  | 'gradients'
  | 'optimizer'
  | 'master'
  | 'activations'
  | 'inputs'
  | 'window' // gradient buckets of ZeRO 2, fp32 windows of 16-bit parameters
  | 'workspace' // what ONNX Runtime allocates inside a run
  | 'communication' // staging of the engine's group, copies in the type that is sent
  | 'io';

/** Handle of something an engine queue is doing. Valid until the engine is disposed. */
export type Work = number;

/** Memory that the engine owns. */
export interface NativeBuffer {
  readonly bytes: number;
  readonly category: MemoryCategory;
  /** True when peers can read it: it lies in this rank's shared arena. */
  readonly shared: boolean;
  /** The bytes, not copied. Detached by `dispose()`: later use throws instead of reading freed memory. */
  view(): ArrayBuffer;
  dispose(): void;
}

/** A stretch of a buffer. `byteOffset` must be a multiple of the element size. */
export interface Region {
  buffer: NativeBuffer;
  byteOffset: number;
  /** Elements, not bytes. */
  count: number;
  dtype: FloatType;
}

// ---------------------------------------------------------------- communication

export type ReduceOp = 'sum' | 'max' | 'min';

export interface ShmOptions {
  backend: 'shm';
  rank: number;
  worldSize: number;
  /** Inherited memfds: the control page, then one arena per rank. */
  controlFd: number;
  arenaFds: number[];
  /** Milliseconds a peer may be alive but absent from a collective. */
  hangTimeoutMs?: number;
}

export interface InprocessOptions {
  backend: 'inprocess';
  /** Ranks with the same key in one process (worker threads) form a world. */
  key: string;
  rank: number;
  worldSize: number;
  hangTimeoutMs?: number;
}

/**
 * Ranks that MPI started, on one machine or several: who they are, MPI knows. Ranks of one machine share
 * memory. All ranks of the run make this communicator; it starts MPI, once a process.
 */
export interface MpiOptions {
  backend: 'mpi';
  /** Path of deepspeed_mpi.so. */
  module: string;
  /** What must be alike on all ranks, in words: HOSTS_DIFFER names two ranks where it is not. */
  identity: string;
  /** All-reduce sends from so many ranks of each machine; default: one or all, whichever measures faster. */
  lanes?: number;
  /** Tests: so many consecutive ranks make a machine, whatever they share. */
  ranksAHost?: number;
  hangTimeoutMs?: number;
}

/** One rank alone: every collective is a copy or nothing. */
export interface SoloOptions {
  backend: 'solo';
}

export type CommOptions = ShmOptions | MpiOptions | InprocessOptions | SoloOptions;

/**
 * Collectives over a group of ranks. Sums run in rank order, so a result never depends on timing.
 * Methods here are synchronous and block the calling thread: they are for set-up and for small
 * values; what belongs to a step is enqueued with `NativeEngine`. Typed arrays of any memory are
 * accepted. Every call carries a sequence number, the operation and its size; ranks that disagree
 * all get an error naming both ranks and both operations.
 */
export interface NativeCommunicator {
  readonly rank: number;
  readonly size: number;
  /** All of them are on one machine: there can be joint memory. False for one rank alone. */
  readonly sharesMemory: boolean;
  allReduce(data: Float32Array | Float64Array | Int32Array, op?: ReduceOp): void;
  /** Every rank gives `data`; the result holds the ranks' bytes in rank order. Same length on all. */
  allGather(data: Uint8Array): Uint8Array;
  broadcast(data: Uint8Array, root: number): void;
  barrier(): void;
  /** Ranks with the same color form a group, ordered by key, then rank. Null for a negative color. */
  split(color: number, key: number): NativeCommunicator | null;
  /** Says that this rank leaves on purpose; peers that wait for it get an error with `reason`. */
  leave(reason: string): void;
  stats(): CommStats[];
  dispose(): void;
}

export interface CommStats {
  operation: string;
  bytes: number;
  calls: number;
  /** Nanoseconds inside the operation, and of that waiting for peers. */
  totalNs: number;
  waitNs: number;
}

// ---------------------------------------------------------------- executor

/** Memory bound to one input or output of a session. */
export interface Binding {
  name: string;
  buffer: NativeBuffer;
  byteOffset: number;
  dtype: DataType;
  dims: readonly number[];
}

export type SessionId = number;
export type InstanceId = number;
export type CompressorId = number;
export type QuantiserId = number;
export type GroupId = number;

/** Execution providers of ONNX Runtime beside the processor's, by onnxruntime-node's names. */
export type ExecutionProvider = 'webgpu';

export interface SessionOptions {
  /** Shown in errors, traces and profiles. */
  name: string;
  /**
   * What computes the nodes that it can; the processor computes the others. Default: the processor alone.
   * `deepspeed.*` operators are always computed by the processor.
   */
  provider?: ExecutionProvider;
  /** ONNX Runtime's graph optimizations: 0 none, 1 basic, 2 extended (default), 99 all. */
  optimizationLevel?: 0 | 1 | 2 | 99;
  /**
   * Plan one block of memory for all values inside a run. Default false: values are freed one by one
   * and reused, which took half the memory at the same speed for a GPT-2 block.
   */
  memoryPattern?: boolean;
  /** ONNX Runtime writes `<prefix>_<time>.json`, a profile of every node, when the session is released. */
  profilePrefix?: string;
}

// ---------------------------------------------------------------- optimizer

export type OptimizerKind =
  | 'adam'
  | 'adamw'
  | 'sgd'
  | 'lion'
  | 'adagrad'
  // As TensorFlow.js computes them; addon/optim/optimizers.h has the formulas.
  | 'adamax'
  | 'rmsprop'
  | 'rmsprop_centered'
  | 'adagrad_root'
  | 'adadelta'
  // The halves of 1-bit Adam's step.
  | 'average'
  | 'adam_frozen'
  // Every range is one whole tensor; addon/optim/lamb.h.
  | 'lamb'
  // 1-bit LAMB before and after the second moments freeze; addon/optim/lamb_frozen.h.
  | 'onebit_lamb'
  | 'lamb_frozen';

/** Hyper-parameters of one parameter group for one step. Fields an optimizer does not use are ignored. */
export interface OptimizerHyper {
  lr: number;
  /** adam, adamw, lion, adamax: betas; sgd: [momentum, 0]; rmsprop: [momentum, decay]; adadelta: [0, rho]. */
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  biasCorrection: boolean;
  /** sgd. */
  nesterov?: boolean;
  dampening?: number;
  /** adam, adamw, adamax: 1 − β1ᵗ and 1 − β2ᵗ of a host that counts them itself. */
  correction1?: number;
  correction2?: number;
  /** lamb, onebit_lamb: bounds of the trust ratio; 0 ≤ minCoeff ≤ maxCoeff. */
  minCoeff?: number;
  maxCoeff?: number;
  /** onebit_lamb: decay rate of the trust ratio's average. */
  coeffBeta?: number;
  /** lamb_frozen: bounds of the factor on that average, and its largest relative change in a step. */
  factorMin?: number;
  factorMax?: number;
  factorThreshold?: number;
}

/** Elements [offset, offset + count) of the shard, updated with hyper-parameters `group`. */
export interface OptimizerRange {
  offset: number;
  count: number;
  group: number;
}

export interface OptimizerStep {
  kind: OptimizerKind;
  /** 1-based; what bias correction uses. */
  step: number;
  /** fp32, all of one length: the shard. States that the optimizer does not have are absent. */
  master: Region;
  gradient: Region;
  state1?: Region;
  state2?: Region;
  state3?: Region;
  /** Where given, the updated shard is also written here in its 16-bit type. */
  copy16?: Region;
  /** onebit_lamb, lamb_frozen: by range the averaged trust ratio and the factor on it; zeros at first. */
  ratios?: Region;
  ranges: OptimizerRange[];
  groups: OptimizerHyper[];
  /** Multiplies every gradient (inverse loss scale and averaging), before clipping. */
  gradientScale: number;
  /** Global-norm clipping: 0 = off. factor = min(1, maxNorm / (norm · gradientScale + 1e-6)). */
  maxNorm: number;
  /**
   * One float64 pair in engine memory, filled by `squaredNorm` and summed over ranks: [Σ g², number of
   * non-finite elements]. When the second is not 0 the step changes nothing.
   */
  norm?: { buffer: NativeBuffer; byteOffset: number };
}

// ---------------------------------------------------------------- compression

/** How gradients are encoded for the wire; absent values are those of addon/compress. */
export interface GradientCompression {
  type: 'int8' | 'topk' | 'powersgd';
  /** int8: at most so many elements of a tensor share a scale. */
  block?: number;
  /** topk: the share of each tensor's elements that is sent, in (0, 1]. */
  ratio?: number;
  /** powersgd: columns of the two factors. */
  rank?: number;
}

/** A tensor of a bucket as a matrix, row-major from element `offset` on; vectors have one row. */
export interface CompressedTensor {
  offset: number;
  rows: number;
  columns: number;
}

// ---------------------------------------------------------------- engine

export interface EngineOptions {
  communicator: NativeCommunicator;
  /** Threads for compute, this rank's share of the cores. */
  threads: number;
  /** The ONNX Runtime library that onnxruntime-node resolves. Absent: `loadSession` is refused. */
  ortLibrary?: string;
}

/** Bytes that the engine of one rank holds and has held. */
export interface MemoryAccount {
  /** Bytes now and the most there ever were, by category. */
  current: Record<MemoryCategory, number>;
  peak: Record<MemoryCategory, number>;
  total: number;
  peakTotal: number;
  /** Allocations since the engine was made; constant over steady-state steps. */
  allocations: number;
}

/**
 * One finished work, for timelines; or, named "wait for checkpoint", how long a queue's next work waited for what a file
 * under way had yet to read, and for nothing else. Times in nanoseconds of the monotonic clock.
 */
export interface WorkRecord {
  work: Work;
  queue: 'compute' | 'comm' | 'io';
  name: string;
  enqueuedNs: number;
  startNs: number;
  endNs: number;
}

/**
 * Ordered queues, one thread each: `compute` runs segments and optimizers, `comm` collectives, `io`
 * files. An enqueue returns at once; a work starts when everything before it on its queue has ended
 * and all of `after` has. A work that fails makes every later dependent fail with the same error,
 * and `wait` reports the first cause.
 */
export interface NativeEngine {
  allocate(
    bytes: number,
    options: { category: MemoryCategory; shared?: boolean; name?: string },
  ): NativeBuffer;
  /**
   * Zeroed memory of which rank r has `bytes[r]`, back to back, and all ranks, of one machine, see and may write
   * all. Collective. The account counts this rank's part.
   */
  allocateJoint(
    bytes: readonly number[],
    options: { category: MemoryCategory; name?: string },
  ): NativeBuffer;
  memory(): MemoryAccount;
  /** Tries every provider beside the processor's, once per process; `fault`: why it cannot be used here. */
  executionProviders(): { name: ExecutionProvider; fault: string | null }[];

  /**
   * Waits until no session of the process runs on another provider than the processor's, and lets none begin any more:
   * for the end of the process, which takes drivers down while the queues go on.
   */
  keepDevice(): void;

  // compute queue
  /** @throws NativeError ORT_FAILED, EXECUTION_PROVIDER */
  loadSession(model: Uint8Array, options: SessionOptions): SessionId;
  releaseSession(session: SessionId): void;
  createInstance(session: SessionId, inputs: Binding[], outputs: Binding[]): InstanceId;
  releaseInstance(instance: InstanceId): void;
  run(instance: InstanceId, after?: Work[]): Work;
  fill(region: Region, value: number, after?: Work[]): Work;
  copy(source: Region, target: Region, after?: Work[]): Work;
  /** target = a·target + b·source; any float types. */
  axpby(source: Region, target: Region, b: number, a: number, after?: Work[]): Work;
  /** Adds [Σ x², count of non-finite x] of the regions into the float64 pair (zeroed first). */
  squaredNorm(
    regions: Region[],
    out: { buffer: NativeBuffer; byteOffset: number },
    after?: Work[],
  ): Work;
  optimizerStep(step: OptimizerStep, after?: Work[]): Work;

  // io queue
  /**
   * Reads stretches of a swap file into memory. Offsets in the file, memory and lengths are multiples of
   * 4096 bytes, as direct I/O needs; buffers start so. One work, so that requests of all pieces are under way together.
   */
  swapIn(file: SwapFile, pieces: readonly SwapPiece[], after?: Work[]): Work;
  /**
   * Writes memory into stretches of a swap file. Where `norm` is given and counts values that are not
   * finite, as in `OptimizerStep`, nothing is written.
   */
  swapOut(
    file: SwapFile,
    pieces: readonly SwapPiece[],
    norm?: { buffer: NativeBuffer; byteOffset: number } | null,
    after?: Work[],
  ): Work;

  /**
   * `NativeAddon.writeFile`, group by group. `taken[k]` ends when the pieces of group k have been read: what waits for it
   * may change them. `written` tells of a failure; the works end then, too. `idle` waits for neither.
   */
  writeFile(
    path: string,
    groups: readonly (readonly FilePiece[])[],
  ): { taken: Work[]; written: Promise<WrittenFile> };

  // comm queue; regions on all ranks have the same count and type
  /** In place. Fast where the region lies in shared memory. */
  allReduce(region: Region, op?: ReduceOp, after?: Work[]): Work;
  /**
   * Rank r's `shards[r]` = [offset, count) of the bucket is what r owns. Every rank's bucket is summed in
   * rank order; the owner gets its part in `target` (accumulate: target += sum). Counts may be 0. A 16-bit
   * bucket's sum is rounded once, as allReduce rounds it, also when `target` is float32.
   */
  reduceScatter(
    bucket: Region,
    shards: { offset: number; count: number }[],
    target: Region | null,
    options?: { accumulate?: boolean },
    after?: Work[],
  ): Work;
  /**
   * Rank r's part [shards[r].offset, +count) of the region is copied from r into every other rank's region. Of joint
   * memory nothing is copied: it ends when all ranks have come to it.
   */
  allGather(region: Region, shards: { offset: number; count: number }[], after?: Work[]): Work;
  /**
   * Makes what `compressedAllReduce` needs for flat fp32 vectors in which tensors of these lengths lie back
   * to back; staging of about 3 bits an element. Collective: the same order on every rank. `served` is
   * the length of this rank's server error.
   */
  createCompressor(tensors: readonly number[]): { id: CompressorId; served: number };
  /**
   * x becomes the one-bit compressed mean over ranks with error feedback (addon/compress has the source).
   * Both errors start as zeros and belong to the run's state; `serverError` is null where `served` is 0.
   * NON_FINITE on every rank, naming ranks, where x + workerError is not finite.
   */
  compressedAllReduce(
    compressor: CompressorId,
    x: Region,
    workerError: Region,
    serverError: Region | null,
    after?: Work[],
  ): Work;
  /**
   * Makes what `compressedSum` needs for a bucket in which these tensors lie, ascending; others of its
   * elements are left alone. Collective: the same order on every rank. `factors` is the length of that
   * argument. INVALID_ARGUMENT for a bucket without tensors, and for an empty one.
   */
  createGradientCompressor(
    compression: GradientCompression,
    tensors: readonly CompressedTensor[],
  ): { id: CompressorId; factors: number };
  /**
   * x, fp32, becomes the lossy sum over ranks with error feedback (addon/compress has the sources).
   * `error`, as long as x, and `factors`, the same on all ranks, start as zeros and belong to the run's
   * state; `factors` is null where there are none. Where a rank's x + error is not finite, the tensors
   * become NaN on all ranks, and the other two stay as they are. `ratio`, the same on all ranks, is that of topk from
   * this call on.
   */
  compressedSum(
    compressor: CompressorId,
    x: Region,
    error: Region,
    factors: Region | null,
    after?: Work[],
    ratio?: number,
  ): Work;
  /**
   * Makes what the two collectives below need: blocks of `block` elements, an even number, that travel in `bits` (8
   * or 4) an element and one fp32 scale (addon/compress/block_quantiser.h). `largest`: elements that a rank's
   * part of a call has at most; staging is for so many. Collective: the same order on every rank.
   */
  createQuantiser(options: { bits: 8 | 4; block: number; largest: number }): QuantiserId;
  /** As allGather, in blocks: each rank, the owner too, ends with what travelled. Not for float64. */
  quantisedAllGather(
    quantiser: QuantiserId,
    region: Region,
    shards: { offset: number; count: number }[],
    after?: Work[],
  ): Work;
  /** As reduceScatter, fp32: each rank's term but the owner's own is quantised once. Sent to owners alone. */
  quantisedReduceScatter(
    quantiser: QuantiserId,
    bucket: Region,
    shards: { offset: number; count: number }[],
    target: Region | null,
    options?: { accumulate?: boolean },
    after?: Work[],
  ): Work;
  /** The ranks of each color, not negative, in rank order. Collective: the same order on every rank. */
  createGroup(color: number): GroupId;
  /** As allGather, among the ranks of a group: one shard for each of them. */
  allGatherWithin(
    group: GroupId,
    region: Region,
    shards: { offset: number; count: number }[],
    after?: Work[],
  ): Work;
  broadcast(region: Region, root: number, after?: Work[]): Work;
  barrier(after?: Work[]): Work;
  /** For benches: bytes per second that the comm queue may move; 0 = unlimited. */
  throttleComm(bytesPerSecond: number): void;
  /** Collectives of the comm queue since the engine was made; the communicator counts its own apart. */
  commStats(): CommStats[];

  /** Resolves when the work has ended, rejects with its NativeError. The JS thread stays free. */
  wait(work: Work): Promise<void>;
  /** Blocks the JS thread. */
  waitSync(work: Work): void;
  /** Drains everything; a failed queue rejects. */
  idle(): Promise<void>;
  /** Works finished since the last call, at most the newest 65,536; recorded only while tracing is on. */
  setTracing(on: boolean): void;
  takeRecords(): WorkRecord[];
  /** Ends runs, joins threads, frees memory. Idempotent. Also done by a cleanup hook at exit. */
  dispose(): void;
}

// ---------------------------------------------------------------- swap files

/** DeepSpeed's `aio` section. */
export interface SwapOptions {
  /** Bytes of one request, a multiple of 4096. */
  blockSize: number;
  /** Requests under way by thread. */
  queueDepth: number;
  /** Threads that share the blocks of one work. */
  threads: number;
  singleSubmit: boolean;
  overlapEvents: boolean;
  /** Default "auto": io_uring where the kernel has it and allows it, a pool of threads elsewhere. */
  backend?: 'auto' | 'io_uring' | 'threads';
}

/**
 * A file of fixed size that stands in for memory while the run lasts. It has no name once it is open: its
 * space is free again however the run ends.
 */
export interface SwapFile {
  /** What it was called, for messages. */
  readonly path: string;
  readonly bytes: number;
  /** Its transfers pass the page cache by. */
  readonly direct: boolean;
  readonly backend: 'io_uring' | 'threads';
  stats(): SwapStats;
  /** Any range; block the JS thread. */
  read(byteOffset: number, target: Uint8Array): void;
  write(byteOffset: number, source: Uint8Array): void;
  dispose(): void;
}

/** What all transfers of a file so far came to. */
export interface SwapStats {
  bytesRead: number;
  bytesWritten: number;
  requests: number;
  /** How often requests were handed to the system. */
  submissions: number;
  /** Requests of one thread that were under way together, at most. */
  mostUnderWay: number;
}

export interface SwapPiece {
  fileOffset: number;
  region: Region;
}

/** A range of a swap file, any bytes. */
export interface SwapRange {
  file: SwapFile;
  byteOffset: number;
  bytes: number;
}

// ---------------------------------------------------------------- checkpoint files

/** Bytes in memory or in a swap file. */
export type BytePlace =
  | Uint8Array
  | { buffer: NativeBuffer; byteOffset: number; bytes: number }
  | SwapRange;

/** A piece of a checkpoint file, written at `fileOffset`. */
export interface FilePiece {
  fileOffset: number;
  source: BytePlace;
}

/** Where bytes of a checkpoint file from `fileOffset` on go. */
export interface FileTarget {
  fileOffset: number;
  target: BytePlace;
}

export interface WrittenFile {
  bytes: number;
  /** CRC-32C of the whole file, as 8 hex digits. */
  crc32c: string;
}

// ---------------------------------------------------------------- run control (launcher side)

/** Shared memory of one run: created by the launcher, inherited by the ranks as file descriptors. */
export interface RunFds {
  controlFd: number;
  arenaFds: number[];
}

/** The control page as the launcher sees it. */
export interface RunControl {
  /** Every rank's state; `heartbeatAgeMs` counts since its engine heartbeat last moved. */
  ranks(): { rank: number; pid: number; joined: boolean; left: boolean; heartbeatAgeMs: number }[];
  /** Makes every waiting or later collective of the run fail with this message. The first abort wins. */
  abort(rank: number, message: string): void;
  dispose(): void;
}

export interface AddonInfo {
  version: string;
  /** Equal to the built TypeScript's, or the rank refuses to run. */
  buildId: string;
  platform: string;
  compiler: string;
  /** Instruction sets this processor has among those compiled in, best first. */
  isa: string[];
}

export interface NativeAddon {
  info(): AddonInfo;
  createCommunicator(options: CommOptions): NativeCommunicator;
  createEngine(options: EngineOptions): NativeEngine;

  /** Launcher: creates the memfds of a run. Close them with `closeFds` when the ranks have been spawned. */
  createRunFds(worldSize: number): RunFds;
  openRunControl(controlFd: number, worldSize: number): RunControl;
  closeFds(fds: number[]): void;
  /**
   * Rank: marks the inherited descriptors close-on-exec, dies with the launcher (`parentPid`), starts
   * the heartbeat. Once per process.
   */
  joinRun(options: {
    rank: number;
    worldSize: number;
    controlFd: number;
    arenaFds: number[];
    parentPid: number;
  }): void;
  /** Rank: tells peers that will wait for it why it ends, also before it has a communicator. */
  leaveRun(reason: string): void;
  /**
   * Rank of a run over several machines: connects to its launcher by TCP, sends `hello` as the first line, and
   * from then on signs of life from a thread of its own. An abort of the launcher, or its silence for
   * `patienceMs`, ends every wait of this rank with COMM_ABORTED; its end ends the process. Once per process.
   */
  openLink(options: { address: string; port: number; hello: string; patienceMs: number }): void;
  /** Sends one line through the link before it returns; nothing without one. */
  tellLauncher(line: string): void;
  bindCores(cores: number[]): void;

  /** Creates `path`, which must not exist, with `bytes` of reserved space, a multiple of 4096. */
  createSwapFile(path: string, bytes: number, options: SwapOptions): SwapFile;
  /**
   * Writes pieces to `path` with a temporary name, fsync, rename. Asynchronous on the io thread.
   * Fails whole: no file under the final name unless complete.
   */
  writeFile(path: string, pieces: FilePiece[]): Promise<WrittenFile>;
  /**
   * Reads bytes of a file into memory or swap files. Fails before anything is read where a target ends behind the file;
   * after another failure some targets have been filled.
   */
  readFile(path: string, targets: readonly FileTarget[]): Promise<void>;
  /**
   * The same, and reads what no target asks for as well, past the page cache where the file system can.
   *
   * @returns CRC-32C of the whole file, as 8 hex digits
   */
  readWholeFile(path: string, targets?: readonly FileTarget[]): Promise<string>;
  crc32c(data: Uint8Array, seed?: number): number;
  fsyncDirectory(path: string): Promise<void>;
  /** Tests: the process kills itself (SIGKILL) at the n-th fault point it passes; 0 = off. Returns points passed. */
  setFaultPoint(n: number): number;
  /** Tests: the n-th fault point passed from now on waits until this is called again; 0 = off. */
  holdFaultPoint(n: number): void;

  /** fp32 ↔ 16 bit, round to nearest even, any counts. */
  convert(source: Uint8Array, from: FloatType, target: Uint8Array, to: FloatType): void;
  /** Bytes of memory this process may still take (cgroup limits included), and cores it may use (quota included). */
  systemLimits(): { memoryAvailable: number; memoryLimit: number; cores: number };
}
