/**
 * Every error a user can meet. One table: the code, what happened in a few words, and the usual fix.
 * `docs/errors.md` is generated from it; an error is data first and prose last.
 */
export const errorCodes = {
  ARGUMENTS_INVALID: {
    title: "The Trainer's arguments are not valid",
    fix: 'Correct the arguments listed.',
  },
  ATTENTION_NOT_REPLACED: {
    title: 'The attention of the model cannot be made sparse',
    fix: 'Set sparse_attention.strict to false to leave the attentions named dense, or export the model with plain attention.',
  },
  CONFIG_INVALID: {
    title: 'The DeepSpeed config is not valid',
    fix: 'Correct the keys listed; `ds_report --config FILE` explains the effective config.',
  },
  CONFIG_NOT_FOUND: {
    title: 'The config file cannot be read',
    fix: 'Check the path; it is resolved from the working directory.',
  },
  CONFIG_SYNTAX: {
    title: 'The config file is not HJSON, or names a key twice',
    fix: 'Correct the place named; comments and missing commas are fine, repeated keys are not.',
  },
  CONFIG_CONFLICT: {
    title: 'The config in code and the one given to the launcher differ',
    fix: 'Give the config in one place, or make both equal.',
  },
  SECTION_TAKEN: {
    title: 'Two strategies define the same config section',
    fix: 'Choose another key in defineSection.',
  },
  NOT_AVAILABLE_YET: {
    title: 'A documented DeepSpeed feature that this version does not have',
    fix: 'Remove the key or set it to its default; docs/deepspeed-keys.md lists what is available.',
  },
  CHECKPOINT_CORRUPT: {
    title: 'A checkpoint is damaged',
    fix: 'Load an older tag (resumeFromCheckpoint: "DIR/TAG"), or copy the checkpoint again.',
  },
  CHECKPOINT_NOT_FOUND: {
    title: 'There is no such checkpoint',
    fix: 'Give the directory that holds `latest`, or the folder of one tag.',
  },
  CHECKPOINT_OTHER_MODEL: {
    title: 'A checkpoint was written by another model or optimizer',
    fix: 'Resume with the model and optimizer that wrote it, or start in a fresh output folder.',
  },
  CHECKPOINT_TAG: {
    title: 'A checkpoint tag is not usable as a folder name',
    fix: 'Use a plain name such as global_step100.',
  },
  CHECKPOINT_VERSION: {
    title: 'A checkpoint was written by a newer deepspeed-js',
    fix: 'Update deepspeed-js.',
  },
  LAYOUT_INVALID: {
    title: 'A sparse attention layout does not fit',
    fix: 'Change the key named, or the sequence length.',
  },
  LOSS_NOT_FINITE: {
    title: 'The loss or a gradient is not a finite number',
    fix: 'Lower the learning rate, warm up longer, clip gradients (maxGradNorm 1), and look at the samples of that step.',
  },
  OFFLOAD_IO: {
    title: 'What is offloaded to disk could not be read or written',
    fix: "Look at the system's log; name a folder of another disk in nvme_path, and resume from the last checkpoint.",
  },
  OFFLOAD_NO_SPACE: {
    title: 'The disk has too little space for what is offloaded to it',
    fix: 'Free space, name a folder of a larger disk in nvme_path, use more ranks or machines, or offload less (ratio, max_in_cpu).',
  },
  OFFLOAD_PATH: {
    title: 'The folder for offloading cannot be used',
    fix: 'Name an existing folder that you may write to, on a local disk, in nvme_path.',
  },
  PASS_FAILED: {
    title: 'A graph of the model refused its input while it ran',
    fix: 'Correct what the message names: a token id or label outside its range, or shapes that do not go together.',
  },
  OUT_OF_MEMORY: {
    title: 'The machine has too little memory for this run',
    fix: 'Use a higher ZeRO stage, a smaller micro batch, fewer ranks, or more memory.',
  },
  PEER_FAILED: {
    title: 'Another rank failed, so this one stopped too',
    fix: 'Look at the error of the rank named.',
  },
  CLAIM_CONFLICT: {
    title: 'Two plugins want to own the same thing',
    fix: 'Use only one of the two plugins named.',
  },
  CLAIM_MISSING: {
    title: 'The strategy leaves something undone that this trainer cannot do itself',
    fix: 'Let the strategy claim it (applyDeepSpeed does), or use one that does.',
  },
  DATASET_EMPTY: {
    title: 'The dataset has no samples',
    fix: 'Check what the dataset was made from; `length` must be above 0.',
  },
  DATASET_INVALID: {
    title: 'A sample is not usable',
    fix: 'Look at the sample named; input_ids and labels are arrays of token ids of one length.',
  },
  DATASET_TOO_SMALL: {
    title: 'The dataset is smaller than one global batch',
    fix: 'Lower the micro batch size, the accumulation steps or the number of ranks.',
  },
  HOOK_ASYNC_TAP: {
    title: 'A tap on a synchronous hook returned a promise',
    fix: 'Enqueue engine work instead of awaiting; only setup, evaluate, checkpoint and shutdown hooks wait.',
  },
  HOST_LACKS_CAPABILITY: {
    title: 'The config asks for something that this trainer cannot do',
    fix: 'Remove the key named, or use a host that has the capability.',
  },
  GRAPH_NOT_TRAINABLE: {
    title: 'A graph was exported for inference only',
    fix: 'Export the model in float32, without quantisation, key/value cache inputs and control flow.',
  },
  GRAPH_INVALID: {
    title: 'A graph breaks a rule of ONNX',
    fix: 'Check the named node; `python -m onnx.checker MODEL` finds most such faults in an exported model.',
  },
  MODEL_FILE_UNREADABLE: {
    title: 'A model file cannot be read or written',
    fix: 'Check the path, its permissions, and that external data files lie beside the model file.',
  },
  MODEL_FILE_INVALID: {
    title: 'A file is not a valid ONNX model',
    fix: 'Export or download the model again; the file is damaged or of another format.',
  },
  MODEL_TOO_LARGE: {
    title: 'A model exceeds what one ONNX file can hold (2 GiB)',
    fix: 'Save it with external data, which saveModel does by itself for large initializers.',
  },
  OPERATOR_UNKNOWN: {
    title: 'A graph uses an operator that deepspeed-js does not know',
    fix: 'Export the model without it (plain ONNX operators, no quantisation); docs/operators.md lists what is known.',
  },
  SHAPE_MISMATCH: {
    title: 'Shapes or types in a graph do not fit together',
    fix: 'Check the shapes that are fed against those that the graph declares.',
  },
  SHAPE_UNKNOWN: {
    title: 'A shape depends on data that is known only when the graph runs',
    fix: 'Make the named shape operand a constant or a function of input shapes, or give the input a fixed value.',
  },
  EXECUTION_PROVIDER: {
    title: 'What a run asks to compute on is not to be had on this machine',
    fix: 'For webgpu: install the driver of the GPU (on Linux one for Vulkan, and libvulkan1), or leave executionProvider out to compute on the processor.',
  },
  ORT_MISSING: {
    title: 'ONNX Runtime is not installed',
    fix: 'Run: npm install @huggingface/transformers@4.3.1 onnxruntime-node@1.30.0',
  },
  ORT_VERSION: {
    title: 'The installed ONNX Runtime is of another version',
    fix: 'Run: npm install @huggingface/transformers@4.3.1 onnxruntime-node@1.30.0',
  },
  ADDON_MISSING: {
    title: 'The native engine is not built',
    fix: 'Run: npm run build:addon (needs cmake and a C++20 compiler).',
  },
  ADDON_BROKEN: {
    title: 'The native engine does not load',
    fix: 'Build it on this machine (needs cmake and a C++20 compiler): npm run build:addon -- --force.',
  },
  ADDON_BUILD_MISMATCH: {
    title: 'TypeScript and native engine come from different builds',
    fix: 'Build both: npm run build. All ranks must run the same installation.',
  },
  ADDON_PLATFORM: {
    title: 'This platform is not supported',
    fix: 'Use Linux or macOS on x64 or arm64; on Windows, WSL 2.',
  },
  MODEL_FOLDER_INVALID: {
    title: 'The model folder lacks a readable config.json',
    fix: 'Give a folder in the layout of Hugging Face: config.json, and model.safetensors for its weights. Nothing is downloaded from the Hub.',
  },
  MODEL_UNSUPPORTED: {
    title: 'The model type is not one that can be built',
    fix: "Use one of the supported model types, or train the model's own ONNX graph.",
  },
  MODEL_CONFIG_INVALID: {
    title: 'Fields of config.json are wrong, contradictory or not available',
    fix: 'Correct or remove the fields listed.',
  },
  WEIGHTS_INVALID: {
    title: 'A weight file is not valid safetensors',
    fix: 'Fetch or write the file again; it is truncated, damaged or of another format.',
  },
  WEIGHTS_MISMATCH: {
    title: 'The weights do not fit the model',
    fix: 'Use the config.json that belongs to the weights; names and shapes must agree.',
  },
  TOKENIZER_INVALID: {
    title: 'The tokenizer is missing or of a kind that this version does not run',
    fix: 'Give a folder with a byte-level BPE tokenizer.json, or tokenize with transformers.js.',
  },
  HOSTFILE_INVALID: {
    title: 'The hostfile cannot be used',
    fix: 'Write one line HOST slots=N for each machine; # begins a comment.',
  },
  MPI_NOT_BUILT: {
    title: 'Several machines need MPI, and the engine was built without it',
    fix: 'Run: apt-get install libopenmpi-dev openmpi-bin   (Fedora: dnf install openmpi-devel), then npm run build:addon -- --force; on every machine.',
  },
  COMM_BACKEND_CONFLICT: {
    title: 'The ranks were joined by something else than the config asks for',
    fix: 'Leave comm_backend out, or start the ranks as it says.',
  },
  LAUNCHER_TOOL_MISSING: {
    title: 'A program that starts ranks on other machines is not installed',
    fix: 'Install it: apt-get install openmpi-bin openssh-client, or name another with --launcher.',
  },
  LAUNCHER_USAGE: {
    title: 'The command line of the launcher is not valid',
    fix: '`deepspeed --help` lists the flags; they come before the script.',
  },
  LAUNCHER_REQUIRED: {
    title: 'Ranks were set up by hand instead of by the launcher',
    fix: 'Start the script with `npx deepspeed-js --num_procs N SCRIPT`.',
  },
  SCRIPT_NOT_FOUND: {
    title: 'The training script does not exist',
    fix: 'Check the path; it is resolved from the working directory, and flags of deepspeed come before it.',
  },
  SCRIPT_NOT_RUNNABLE: {
    title: 'The training script is of a kind that Node cannot run here',
    fix: 'Use a .js, .mjs, .cjs, .ts, .mts or .cts file.',
  },
  RANK_LOG_NOT_WRITABLE: {
    title: 'The folder of --enable_each_rank_log cannot be written',
    fix: 'Choose a folder that you may write to.',
  },
  VERSION_MISMATCH: {
    title: 'The launcher and the library are of different versions',
    fix: 'Start with the launcher that is installed in the project: `npx deepspeed-js`.',
  },
  LOSS_SCALE_AT_MINIMUM: {
    title: 'Gradients overflow at the smallest loss scale',
    fix: 'Use bf16, a lower learning rate or gradient clipping; look for NaN in the data.',
  },
  RANKS_DIFFER: {
    title: 'The ranks do not train the same model in the same way',
    fix: 'Give every rank the same model (config, files and seed), arguments and dataset.',
  },
  STRATEGY_CONFLICT: {
    title: 'The strategy and the config contradict each other',
    fix: 'Keep one of the two.',
  },
  STRATEGY_TAKEN: {
    title: 'A strategy of that name is registered already',
    fix: 'Choose another name.',
  },
  STRATEGY_UNKNOWN: {
    title: 'There is no strategy of that name',
    fix: 'Use ddp, deepspeed, deepspeed_stage_1, deepspeed_stage_2 or deepspeed_stage_3, or register your own.',
  },
  GRADIENT_MISSING: {
    title: 'An operator of the model cannot be differentiated',
    fix: 'Freeze the parameters before the named node, or export the model without that operator.',
  },
  OUTPUT_NOT_WRITABLE: {
    title: 'An output file or folder cannot be written',
    fix: 'Check that the folder exists, may be written to, and that the disk is not full.',
  },
  OUTPUT_IN_USE: {
    title: 'Another training writes to the same output folder',
    fix: 'Wait until it has ended, or give another outputDir.',
  },
  TRAINER_CLOSED: {
    title: 'A Trainer was used after it had been closed or had failed',
    fix: 'Make a new Trainer.',
  },
  CALL_NEVER_ENDS: {
    title: 'A call of the Trainer would never end',
    fix: 'In a callback await what is called there; what was called outside, await outside.',
  },
  TFJS_COPIES: {
    title: 'Two copies of TensorFlow.js are loaded in one process',
    fix: 'Make all packages share one: `npm ls @tensorflow/tfjs-core`, then `npm dedupe` or overrides in package.json.',
  },
  TFJS_NOT_HOOKED: {
    title: 'TensorFlow.js was loaded in a way that the launcher cannot follow',
    fix: 'Load `@tensorflow/tfjs` (or `@tensorflow/tfjs-node`) from node_modules with import or require, not a bundle.',
  },
  TFJS_VERSION: {
    title: 'This version of TensorFlow.js is not supported',
    fix: 'Install a supported one: npm install @tensorflow/tfjs@4.22.0',
  },
  STDIN_ON_RANK: {
    title: 'A script under the launcher reads standard input',
    fix: 'Read a file instead: every rank must see the same data.',
  },
  TFJS_UNSUPPORTED: {
    title: 'A TensorFlow.js script does something that does not split over ranks',
    fix: 'Run the script without the launcher, or change what is named.',
  },
  FIRST_BATCH_DIFFERS: {
    title: 'The first batch, split over ranks, does not give what the whole batch gives',
    fix: 'Something in the model, its loss or its metrics mixes the rows of a batch, or keeps state from call to call; run without the launcher. docs/tfjs.md lists what splits.',
  },
  INTERNAL: {
    title: 'A fault of deepspeed-js itself',
    fix: 'Please report it with the message and the stack.',
  },
} as const satisfies Record<string, { title: string; fix: string }>;

/** The stable name of an error: what programs compare. */
export type ErrorCode = keyof typeof errorCodes;

/** What an error carries beside its code and message. */
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
  /** URL of the folder in which this copy of the package lies. */
  static readonly home: string = new URL('.', import.meta.url).href;
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
