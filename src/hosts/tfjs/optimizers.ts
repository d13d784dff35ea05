/**
 * TensorFlow.js's optimizers in the engine's terms: which update it runs, with which hyper-parameters in
 * the next step, and where TensorFlow.js keeps the states, so that they can be read from there and given
 * back. Its constants are float32 tensors, so they are rounded here as they are there.
 */
import type { OptimizerHyper, OptimizerKind } from '../../native/index.ts';
import type { Core, Optimizer, Tensor, Variable } from './library.ts';

/** One state of an optimizer: a field that holds a variable by position. */
export interface StateField {
  readonly field: string;
  /** Appended to the variable's name: what saved optimizers call it. */
  readonly suffix: string;
}

export interface OptimizerAdapter {
  readonly kind: OptimizerKind;
  readonly hyper: OptimizerHyper;
  /** In the order of the engine's states. */
  readonly states: readonly StateField[];
  /** What the first state starts as. */
  readonly initial: number;
  /** Steps that this optimizer has taken. */
  readonly steps: number;
  /** Sets `hyper` for the next step. */
  prepare(learningRate: number): void;
  learningRate(): number;
  /** The step was taken: what TensorFlow.js counts besides the states. */
  stepped(): void;
  /** Before states are given back: the scalars that belong to them. */
  giveBack(): void;
}

interface Fields {
  c: Tensor;
  m: Tensor;
  useNesterov: boolean;
  beta1: number;
  beta2: number;
  epsilon: number;
  accBeta1: Variable;
  accBeta2: Variable;
  iteration: Variable;
  decay: number;
  momentum: number;
  centered: boolean;
  rho: number;
  initialAccumulatorValue: number;
}

/** Null for an optimizer that is not TensorFlow.js's own: a subclass may do anything. */
export function adapterOf(core: Core, optimizer: Optimizer): OptimizerAdapter | null {
  if (Object.hasOwn(optimizer, 'applyGradients') || Object.hasOwn(optimizer, 'minimize'))
    return null;
  const make = makers(core).get(Object.getPrototypeOf(optimizer));
  return make ? make(core, optimizer, optimizer as Optimizer & Fields) : null;
}

type Maker = (core: Core, optimizer: Optimizer, fields: Fields) => OptimizerAdapter;

function makers(core: Core): Map<unknown, Maker> {
  return new Map<unknown, Maker>([
    [core.SGDOptimizer.prototype, sgd],
    [core.MomentumOptimizer.prototype, momentum],
    [core.AdamOptimizer.prototype, adam],
    [core.AdamaxOptimizer.prototype, adamax],
    [core.RMSPropOptimizer.prototype, rmsprop],
    [core.AdagradOptimizer.prototype, adagrad],
    [core.AdadeltaOptimizer.prototype, adadelta],
  ]);
}

const none: OptimizerHyper = {
  lr: 0,
  beta1: 0,
  beta2: 0,
  eps: 0,
  weightDecay: 0,
  biasCorrection: false,
};

/** What most of them share; `extra` overrides. */
function adapter(
  optimizer: Optimizer,
  kind: OptimizerKind,
  states: readonly StateField[],
  hyper: Partial<OptimizerHyper>,
  extra: Partial<OptimizerAdapter> = {},
): OptimizerAdapter {
  return {
    kind,
    states,
    hyper: { ...none, ...hyper },
    initial: 0,
    get steps() {
      return optimizer.iterations;
    },
    learningRate: () => optimizer.learningRate!,
    prepare(learningRate) {
      this.hyper.lr = learningRate;
    },
    stepped: () => {
      optimizer.iterations_ = optimizer.iterations + 1;
    },
    giveBack: () => {},
    ...extra,
  };
}

/** `setLearningRate` writes the tensor c = −rate; the field `learningRate` alone has no effect there. */
const rateOfTensor = (fields: Fields) => () => -fields.c.dataSync()[0]!;

const sgd: Maker = (_, optimizer, fields) =>
  adapter(optimizer, 'sgd', [], {}, { learningRate: rateOfTensor(fields) });

const momentum: Maker = (_, optimizer, fields) =>
  adapter(
    optimizer,
    'sgd',
    [{ field: 'accumulations', suffix: 'momentum' }],
    // setMomentum has no effect in TensorFlow.js either: the tensor m is made once.
    { beta1: fields.m.dataSync()[0]!, nesterov: fields.useNesterov, dampening: 0 },
    { learningRate: rateOfTensor(fields) },
  );

/** Running β^t as TensorFlow.js keeps it: a float32 product, one step ahead. */
class PowerOf {
  value: number;
  readonly #base: number;

  constructor(variable: Variable, base: number) {
    this.value = variable.dataSync()[0]!;
    this.#base = Math.fround(base);
  }

  get correction(): number {
    return Math.fround(1 - this.value);
  }

  advance(): void {
    this.value = Math.fround(this.value * this.#base);
  }

  giveBack(core: Core, variable: Variable): void {
    const value = core.scalar(this.value);
    variable.assign(value);
    value.dispose();
  }
}

const adam: Maker = (core, optimizer, fields) => {
  const first = new PowerOf(fields.accBeta1, fields.beta1);
  const second = new PowerOf(fields.accBeta2, fields.beta2);
  return adapter(
    optimizer,
    'adam',
    [
      { field: 'accumulatedFirstMoment', suffix: 'm' },
      { field: 'accumulatedSecondMoment', suffix: 'v' },
    ],
    {},
    {
      prepare(learningRate) {
        const { beta1, beta2, epsilon } = fields;
        Object.assign(this.hyper!, { lr: learningRate, beta1, beta2, eps: epsilon });
        this.hyper!.correction1 = first.correction;
        this.hyper!.correction2 = second.correction;
      },
      stepped() {
        optimizer.iterations_ = optimizer.iterations + 1;
        first.advance();
        second.advance();
      },
      giveBack() {
        first.giveBack(core, fields.accBeta1);
        second.giveBack(core, fields.accBeta2);
      },
    },
  );
};

const adamax: Maker = (core, optimizer, fields) => {
  const first = new PowerOf(fields.accBeta1, fields.beta1);
  let iteration = fields.iteration.dataSync()[0]!;
  return adapter(
    optimizer,
    'adamax',
    [
      { field: 'accumulatedFirstMoment', suffix: 'm' },
      { field: 'accumulatedWeightedInfNorm', suffix: 'v' },
    ],
    {},
    {
      prepare(learningRate) {
        const { beta1, beta2, epsilon, decay } = fields;
        const lr = learningRate / (iteration * decay + 1);
        Object.assign(this.hyper!, { lr, beta1, beta2, eps: epsilon });
        this.hyper!.correction1 = first.correction;
      },
      stepped() {
        optimizer.iterations_ = optimizer.iterations + 1;
        iteration += 1;
        first.advance();
      },
      giveBack() {
        first.giveBack(core, fields.accBeta1);
        const value = core.scalar(iteration);
        fields.iteration.assign(value);
        value.dispose();
      },
    },
  );
};

const rmsprop: Maker = (_, optimizer, fields) => {
  const states = [
    { field: 'accumulatedMeanSquares', suffix: 'rms' },
    { field: 'accumulatedMoments', suffix: 'momentum' },
  ];
  const centred = { field: 'accumulatedMeanGrads', suffix: 'mg' };
  return adapter(
    optimizer,
    fields.centered ? 'rmsprop_centered' : 'rmsprop',
    fields.centered ? [...states, centred] : states,
    {},
    {
      prepare(learningRate) {
        const { momentum: beta1, decay: beta2, epsilon: eps } = fields;
        Object.assign(this.hyper!, { lr: learningRate, beta1, beta2, eps });
      },
    },
  );
};

/** TensorFlow.js adds the backend's epsilon inside the root. */
const adagrad: Maker = (core, optimizer, fields) =>
  adapter(
    optimizer,
    'adagrad_root',
    [{ field: 'accumulatedGrads', suffix: 'accumulator' }],
    { eps: backendEpsilon(core) },
    { initial: fields.initialAccumulatorValue },
  );

const adadelta: Maker = (_, optimizer, fields) =>
  adapter(
    optimizer,
    'adadelta',
    [
      { field: 'accumulatedGrads', suffix: 'accum_grad' },
      { field: 'accumulatedUpdates', suffix: 'accum_var' },
    ],
    {},
    {
      prepare(learningRate) {
        Object.assign(this.hyper!, { lr: learningRate, beta2: fields.rho, eps: fields.epsilon });
      },
    },
  );

function backendEpsilon(core: Core): number {
  return (core as unknown as { backend(): { epsilon(): number } }).backend().epsilon();
}
