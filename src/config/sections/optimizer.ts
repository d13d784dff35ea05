/** The optimizers and their parameters, with PyTorch's or DeepSpeed's own defaults. */
import {
  accepted,
  available,
  betas,
  choice,
  flag,
  fraction,
  nonNegative,
  wholeNumber,
  notYet,
  positive,
  positiveInteger,
  text,
  variant,
} from '../key.ts';

const lr = (value: number) =>
  available(nonNegative, value, 'Learning rate; a scheduler takes over from the first step.', {
    autoFrom: 'the Trainer argument learningRate',
  });
const weightDecay = available(nonNegative, 0, 'Weight decay; groups without decay keep 0.', {
  autoFrom: 'the Trainer argument weightDecay',
});
const twoBetas = available(
  betas,
  [0.9, 0.999] as [number, number],
  'Decay rates of the averages.',
  {
    autoFrom: 'the Trainer arguments adamBeta1 and adamBeta2',
  },
);
const eps = (value: number) =>
  available(positive, value, 'Added to the denominator.', {
    autoFrom: 'the Trainer argument adamEpsilon',
  });
const amsgrad = notYet(flag, false, 'Keep the maximum of the second moments.');
const torchOnly = 'it chooses between PyTorch implementations of the same formula';

const adam = {
  lr: lr(1e-3),
  betas: twoBetas,
  eps: eps(1e-8),
  weight_decay: weightDecay,
  bias_correction: available(flag, true, 'Correct the averages for their start at 0.'),
  adam_w_mode: available(
    flag,
    true,
    'Decoupled weight decay: "Adam" means AdamW unless this is false.',
  ),
  amsgrad,
  torch_adam: accepted(flag, false, "Use PyTorch's Adam.", torchOnly),
  fused: accepted(flag, false, 'Use the fused kernel.', 'the kernel here is always fused'),
};
const { adam_w_mode: _always, ...adamW } = adam;

const oneBit = {
  ...adamW,
  freeze_step: available(
    wholeNumber,
    100_000,
    'Dense steps, after which the second moments freeze and compression begins.',
  ),
  cuda_aware: accepted(flag, false, 'MPI can read device memory.', 'there is no device memory'),
  comm_backend_name: accepted(
    text,
    'nccl',
    'Backend of the compressed all-reduce.',
    'it travels over the same communicator as everything else',
  ),
};
const { freeze_step: _freezes, ...zeroOne } = oneBit;
const lamb = {
  ...adamW,
  max_coeff: available(positive, 10, 'Upper bound of the trust ratio.'),
  min_coeff: available(positive, 0.01, 'Lower bound of the trust ratio.'),
};

export const optimizerKeys = {
  optimizer: choice('The optimizer. Absent: the host trainer brings its own.', {
    Adam: variant(
      'available',
      'Adam, with decoupled weight decay unless adam_w_mode is false.',
      adam,
    ),
    AdamW: variant('available', 'Adam with decoupled weight decay.', adamW),
    SGD: variant('available', 'Stochastic gradient descent with momentum.', {
      lr: lr(1e-3),
      momentum: available(nonNegative, 0, 'Weight of the running gradient.'),
      dampening: available(nonNegative, 0, 'What the new gradient loses when it enters momentum.'),
      weight_decay: weightDecay,
      nesterov: available(flag, false, 'Look ahead along the momentum.'),
    }),
    Lion: variant('available', 'Sign of an interpolated momentum.', {
      lr: lr(1e-3),
      betas: twoBetas,
      weight_decay: weightDecay,
    }),
    Adagrad: variant('available', 'Step sizes from the sum of squared gradients.', {
      lr: lr(1e-2),
      eps: eps(1e-10),
      weight_decay: weightDecay,
      lr_decay: notYet(nonNegative, 0, 'Decay of the learning rate over steps.'),
      initial_accumulator_value: notYet(nonNegative, 0, 'Start of the sum of squares.'),
      amsgrad,
    }),
    Lamb: variant('available', 'Adam with a trust ratio per tensor.', lamb),
    OneBitAdam: variant('available', 'Adam whose momentum travels as one bit per element.', oneBit),
    ZeroOneAdam: variant('available', '1-bit Adam that also skips communication rounds.', {
      ...zeroOne,
      var_freeze_step: available(
        positiveInteger,
        100_000,
        'Steps after which the second moments freeze and local steps begin.',
      ),
      var_update_scaler: available(
        positiveInteger,
        16,
        'Updates of the second moments after which the interval between them doubles.',
      ),
      local_step_scaler: available(
        positiveInteger,
        32_678,
        'Local steps after which the interval between exchanges doubles.',
      ),
      local_step_clipper: available(positiveInteger, 16, 'Longest interval between exchanges.'),
    }),
    OneBitLamb: variant('available', 'LAMB whose momentum travels as one bit per element.', {
      ...oneBit,
      max_coeff: lamb.max_coeff,
      min_coeff: lamb.min_coeff,
      coeff_beta: available(
        fraction,
        0.9,
        'Decay rate of the average of trust ratios that is used after the freeze.',
      ),
      factor_max: available(positive, 4, 'Upper bound of the factor on that average.'),
      factor_min: available(positive, 0.5, 'Lower bound of the factor on that average.'),
      factor_threshold: available(
        nonNegative,
        0.1,
        'Largest change of the factor in a step, relatively.',
      ),
    }),
    Muon: variant('not yet', 'Orthogonalised momentum for matrices, Adam for the rest.', {
      lr: lr(1e-3),
      muon_lr: notYet(nonNegative, null, 'Learning rate of the matrices.'),
      adam_lr: notYet(nonNegative, null, 'Learning rate of the rest.'),
      momentum: notYet(fraction, 0.95, 'Weight of the running gradient.'),
      weight_decay: weightDecay,
      betas: twoBetas,
      eps: eps(1e-8),
      ns_method: notYet(text, 'gram', 'Newton-Schulz iteration.'),
    }),
    MuAdam: variant('not yet', 'Adam under maximal-update parametrisation.', adam),
    MuAdamW: variant('not yet', 'AdamW under maximal-update parametrisation.', adamW),
    MuSGD: variant('not yet', 'SGD under maximal-update parametrisation.', { lr: lr(1e-3) }),
  }),
  zero_allow_untested_optimizer: accepted(
    flag,
    false,
    'Allow an optimizer of your own under ZeRO.',
    'every optimizer here is tested under ZeRO',
  ),
  zero_force_ds_cpu_optimizer: accepted(
    flag,
    true,
    "Insist on DeepSpeed's CPU optimizer when offloading.",
    'there is only one CPU optimizer here',
  ),
};
