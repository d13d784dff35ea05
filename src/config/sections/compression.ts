/** Lossy gradients on the wire; an extension of deepspeed-js. */
import {
  available,
  oneOf,
  optionalSection,
  positiveFraction,
  positiveInteger,
  wholeNumber,
} from '../key.ts';

const ours = { note: 'deepspeed-js only' };

export const compressionKeys = {
  compression: optionalSection(
    'Compresses gradients on the wire, with error feedback. Absent: they travel whole.',
    {
      type: available(
        oneOf('int8', 'topk', 'powersgd'),
        'int8',
        'int8: eight bits an element; topk: the largest elements; powersgd: two thin factors of each matrix.',
        ours,
      ),
      block_size: available(
        positiveInteger,
        256,
        'int8: at most so many elements of a tensor share a scale.',
        ours,
      ),
      ratio: available(
        positiveFraction,
        0.01,
        'topk: the share of each tensor that is sent.',
        ours,
      ),
      warmup_steps: available(
        wholeNumber,
        0,
        'topk: over so many optimizer steps the share falls from a quarter to `ratio`, by a factor of four at a time.',
        ours,
      ),
      rank: available(positiveInteger, 4, 'powersgd: columns of the factors.', ours),
      start_step: available(
        wholeNumber,
        0,
        'Optimizer steps whose gradients still travel whole.',
        ours,
      ),
    },
  ),
};
