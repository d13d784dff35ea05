/**
 * Codes of the errors that the engine throws (`NativeError`), and what to do. Those that stand in src/errors.ts
 * as well mean the same there. A test holds both tables against the C++ sources.
 */
export const engineCodes = {
  COMM_ABORTED: {
    title: 'The run was ended while this rank waited',
    fix: 'Look at the error of the rank that is named, or at what ended the run.',
  },
  COMM_CONTROL_PAGE: {
    title: 'This rank could not enter the memory that the ranks share',
    fix: 'Start all ranks with one launcher, of one installation and as one user.',
  },
  COMM_HANG: {
    title: 'A rank is alive and does not come to a collective',
    fix: 'Look for code that only some ranks reach (evaluate, saveModel, predict, train belong to all), or raise --hang_timeout.',
  },
  COMM_MISMATCH: {
    title: 'Ranks called different collectives, or one with different sizes',
    fix: 'Look for code that depends on RANK, and for data or models that differ between ranks.',
  },
  COMM_PEER_DIED: {
    title: 'A rank has died',
    fix: 'Look at what ended it: the launcher names the signal, and says when memory was lacking.',
  },
  COMM_PEER_LEFT: {
    title: 'A rank left while others waited for it',
    fix: 'Look at the error of the rank that is named; without one, it came to its end earlier than the others.',
  },
  COMM_TRANSPORT: {
    title: 'MPI failed between machines',
    fix: 'Run `deepspeed-js check --mpi` with the hostfile of the run; docs/launcher.md says how to name the network.',
  },
  DISPOSED: {
    title: 'Something was used after it had been closed',
    fix: 'Close trainers, engines and attentions after their last use.',
  },
  HOSTS_DIFFER: {
    title: 'Machines have other versions, builds or configs than this one',
    fix: 'Install the same build everywhere, and give all ranks the same config.',
  },
  INVALID_ARGUMENT: {
    title: 'The engine was given something that does not fit',
    fix: 'Correct the value that is named. If you did not give it, please report it with the message and the stack.',
  },
  INVALID_STATE: {
    title: 'A process joined a run twice',
    fix: 'Start it with one launcher, once.',
  },
  IO_ERROR: {
    title: 'The system failed to read or write a file',
    fix: 'Look at the disk of the path that is named, and at the reason that the system gives.',
  },
  IO_NO_SPACE: {
    title: 'A disk is full',
    fix: 'Free space on the disk of the path that is named, or write to another.',
  },
  IO_NOT_FOUND: {
    title: 'A file or folder is not there',
    fix: 'Check the path; it is resolved from the working directory.',
  },
  IO_PERMISSION: {
    title: 'A file or folder may not be read or written',
    fix: 'Give the user of the run the right to it, or name another.',
  },
  IO_SHORT_FILE: {
    title: 'A file ends before what was to be read of it',
    fix: 'It was cut, or is still being written: restore it, or load another.',
  },
  LAUNCHER_GONE: {
    title: 'The launcher has ended, or cannot be reached',
    fix: 'Look at what ended it; between machines, --master_addr names the address by which the others reach it.',
  },
  LIMIT: {
    title: 'A run has too many groups or ranks',
    fix: 'Use fewer; dispose of groups that are not needed any more.',
  },
  NON_FINITE: {
    title: 'A gradient that was to be compressed is not finite',
    fix: 'Lower the learning rate, warm up longer, clip gradients, and look at the samples of that step.',
  },
  ORT_FAILED: {
    title: 'ONNX Runtime failed in a pass',
    fix: "Look at the node that is named; with a graph of your own, at the samples' shapes and values.",
  },
  ORT_LIBRARY: {
    title: 'ONNX Runtime does not load',
    fix: 'Run: npm install @huggingface/transformers@4.3.1 onnxruntime-node@1.30.0',
  },
  SYSTEM: {
    title: 'The system refused shared memory or a thread',
    fix: 'Look at the reason that it gives, and at the limits of the container (ulimit -a).',
  },
} as const satisfies Record<string, { title: string; fix: string }>;
