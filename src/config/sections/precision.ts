/** 16-bit training. */
import {
  accepted,
  available,
  block,
  flag,
  key,
  nonNegative,
  notYet,
  oneOf,
  positive,
  positiveInteger,
  section,
  texts,
  wholeNumber,
} from '../key.ts';

const storage = oneOf('fp16', 'bf16', 'fp32');

/** A type that can be named, but not chosen yet. */
const fp32Only = (meaning: string, note: string) =>
  key('accepted', storage, null, meaning, { note, later: ['fp16', 'bf16'] });

export const precisionKeys = {
  fp16: section('Half-precision storage with loss scaling.', {
    enabled: available(flag, false, 'Train in fp16 with fp32 master weights.', {
      autoFrom: 'the Trainer argument fp16',
    }),
    auto_cast: notYet(flag, false, 'Cast the inputs of the model to fp16.'),
    loss_scale: available(nonNegative, 0, 'Fixed loss scale; 0: a dynamic one.'),
    initial_scale_power: available(wholeNumber, 16, 'The dynamic scale starts at 2 to this power.'),
    loss_scale_window: available(
      positiveInteger,
      1000,
      'Steps without overflow before the scale doubles.',
    ),
    hysteresis: available(positiveInteger, 2, 'Overflows before the scale halves.'),
    consecutive_hysteresis: available(
      flag,
      false,
      'Refill the hysteresis at every step without overflow.',
    ),
    min_loss_scale: available(positive, 1, 'The dynamic scale never falls below this.'),
    fp16_master_weights_and_grads: notYet(
      flag,
      false,
      'Keep master weights and gradients in fp16.',
    ),
  }),
  bf16: section('bfloat16 storage (alias: bfloat16).', {
    enabled: available(flag, false, 'Train in bfloat16 with fp32 master weights.', {
      autoFrom: 'the Trainer argument bf16',
    }),
    immediate_grad_update: accepted(
      flag,
      false,
      'Add each gradient to its fp32 sum as soon as it exists.',
      'gradients are always accumulated where they are produced',
    ),
    check_grad_overflow: available(flag, true, 'Skip a step whose gradients are not finite.', {
      note: 'with false such a step ends training with an error; DeepSpeed would go on with NaN weights',
    }),
    bf16_master_weights_and_grads: notYet(
      flag,
      false,
      'Keep master weights and gradients in bf16.',
    ),
    bf16_optimizer_states: notYet(flag, false, 'Keep optimizer states in bf16.'),
  }),
  torch_autocast: section("PyTorch's own mixed precision.", {
    enabled: key('never', flag, false, 'Use torch.autocast.', {
      note: 'it is a feature of PyTorch; use bf16 or fp16',
    }),
    dtype: accepted(
      oneOf('float16', 'bfloat16'),
      'bfloat16',
      'Type of autocast.',
      'unused while off',
    ),
    lower_precision_safe_modules: accepted(texts, null, 'Modules to cast.', 'unused while off'),
  }),
  amp: block(
    'never',
    'NVIDIA Apex mixed precision.',
    'Apex is a PyTorch extension; use bf16 or fp16',
  ),
  data_types: section('Types of stored tensors.', {
    grad_accum_dtype: fp32Only('Type in which gradients accumulate.', 'they accumulate in fp32'),
    param_dtype: fp32Only('Type of parameters.', 'fp16.enabled and bf16.enabled decide'),
    buffer_dtype: fp32Only('Type of buffers.', 'buffers are fp32'),
    keep_in_fp32_modules: accepted(
      texts,
      null,
      'Modules that stay in fp32.',
      'everything computes in fp32',
    ),
  }),
};
