/**
 * What this host uses of TensorFlow.js 4.22, private fields included: its own declarations hide them, and
 * users of the package should not need them.
 */
export interface Tensor {
  readonly shape: number[];
  readonly size: number;
  readonly dtype: string;
  /** Identity of the values: an assignment gives a variable another one. */
  readonly dataId: object;
  readonly isDisposed: boolean;
  dataSync(): Float32Array | Int32Array | Uint8Array;
  clone(): Tensor;
  dispose(): void;
}

export interface Variable extends Tensor {
  readonly name: string;
  trainable: boolean;
  assign(value: Tensor): void;
}

export interface LayerVariable {
  readonly originalName: string;
  read(): Variable;
}

export type NamedGradients = Record<string, Tensor | null>;
export type GradientList = { name: string; tensor: Tensor | undefined }[];

export interface Optimizer {
  learningRate?: number;
  readonly iterations: number;
  iterations_: number;
  minimize(f: () => Tensor, returnCost?: boolean, variables?: Variable[]): Tensor | null;
  computeGradients(
    f: () => Tensor,
    variables?: Variable[],
  ): { value: Tensor; grads: NamedGradients };
  applyGradients(gradients: NamedGradients | GradientList): void;
  getClassName(): string;
  getWeights(): Promise<{ name: string; tensor: Tensor }[]>;
  setWeights(weights: { name: string; tensor: Tensor }[]): Promise<void>;
  dispose(): void;
}

export interface Layer {
  readonly name: string;
  readonly stateful?: boolean;
  readonly batchInputShape?: (number | null)[];
  getClassName(): string;
  call(inputs: unknown, options: { training?: boolean }): Tensor | Tensor[];
  /** Layers that contain others. */
  readonly layers?: Layer[];
  readonly layer?: Layer;
  readonly forwardLayer?: Layer;
  readonly backwardLayer?: Layer;
}

/** A batch as the inner functions of a model take it: inputs, targets, sample weights. */
export type Batch = (Tensor | null)[];
export type BatchFunction = (batch: Batch) => Tensor[];
export type MetricFunction = (targets: Tensor, outputs: Tensor) => Tensor;

export interface LayersModel extends Layer {
  readonly inputs: { readonly shape: (number | null)[] }[];
  readonly outputs: { readonly shape: (number | null)[] }[];
  readonly layers: Layer[];
  readonly weights: LayerVariable[];
  readonly nonTrainableWeights: LayerVariable[];
  collectedTrainableWeights?: LayerVariable[];
  optimizer_?: Optimizer;
  /** As they were given to `compile`: names, functions, lists or maps of them. */
  readonly loss?: unknown;
  readonly metrics?: unknown;
  /** Another list after every `compile`. */
  lossFunctions: MetricFunction[];
  metricsTensors: [MetricFunction, number][];
  metricsNames: string[];
  testFunction: BatchFunction;
  isTraining: boolean;
  stopTraining_: boolean;
  makeTrainFunction(): BatchFunction;
  makeTestFunction(): void;
  /** `Sequential` keeps the model that does the work here. */
  readonly model?: LayersModel;
}

export interface Core {
  readonly version_core: string;
  readonly Optimizer: { prototype: Optimizer };
  readonly SGDOptimizer: OptimizerClass;
  readonly MomentumOptimizer: OptimizerClass;
  readonly AdamOptimizer: OptimizerClass;
  readonly AdamaxOptimizer: OptimizerClass;
  readonly RMSPropOptimizer: OptimizerClass;
  readonly AdagradOptimizer: OptimizerClass;
  readonly AdadeltaOptimizer: OptimizerClass;
  readonly Tensor: abstract new (...args: never[]) => Tensor;
  engine(): Engine;
  getBackend(): string;
  tensor(values: Float32Array | Int32Array, shape: readonly number[], dtype?: string): Tensor;
  scalar(value: number): Tensor;
  variable(value: Tensor, trainable?: boolean): Variable;
  slice(x: Tensor, begin: readonly number[], size: readonly number[]): Tensor;
  mean(x: Tensor): Tensor;
  tidy<T>(action: () => T): T;
  keep<T extends Tensor>(tensor: T): T;
  dispose(tensors: unknown): void;
  add(a: Tensor | number, b: Tensor | number): Tensor;
  sub(a: Tensor | number, b: Tensor | number): Tensor;
  mul(a: Tensor | number, b: Tensor | number): Tensor;
  div(a: Tensor | number, b: Tensor | number): Tensor;
  floor(x: Tensor): Tensor;
  square(x: Tensor): Tensor;
  sum(x: Tensor, axes: readonly number[]): Tensor;
  reshape(x: Tensor, shape: readonly number[]): Tensor;
  customGrad(
    f: (
      x: Tensor,
      save: (tensors: Tensor[]) => void,
    ) => { value: Tensor; gradFunc: (dy: Tensor, saved: Tensor[]) => Tensor },
  ): (x: Tensor) => Tensor;
  readonly backend_util: { warn(...message: unknown[]): void };
  readonly io: {
    registerSaveRouter(router: (url: unknown) => IoHandler | null): void;
    registerLoadRouter(router: (url: unknown) => IoHandler | null): void;
  };
  readonly serialization: {
    SerializationMap: { getMap(): { classNameMap: Record<string, [{ prototype: Layer }]> } };
  };
  moments(x: Tensor, axes: readonly number[], keepDims?: boolean): Moments;
  dropout(x: Tensor, rate: number, noiseShape?: number[] | null, seed?: number): Tensor;
  randomGamma: RandomFunction;
  randomNormal: RandomFunction;
  randomStandardNormal: RandomFunction;
  randomUniform: RandomFunction;
  randomUniformInt: RandomFunction;
  truncatedNormal: RandomFunction;
}

export interface Moments {
  mean: Tensor;
  variance: Tensor;
}

export type RandomFunction = (shape: number[], ...more: (number | string | undefined)[]) => Tensor;

export interface OptimizerClass {
  readonly prototype: Optimizer;
}

export interface Engine {
  readonly backendName: string;
  readonly backend: object;
  readonly registeredVariables: Record<string, Variable>;
  readonly registryFactory: Record<string, unknown>;
  gradients(
    f: () => Tensor,
    xs: Tensor[],
    dy: Tensor | null,
    allowNoGradients?: boolean,
  ): { value: Tensor; grads: (Tensor | undefined)[] };
}

export interface IoHandler {
  save?(artifacts: Record<string, unknown>): Promise<unknown>;
  load?(): Promise<unknown>;
}

export interface Layers {
  readonly version_layers: string;
  readonly LayersModel: { prototype: LayersModel };
  readonly metrics: Record<string, MetricFunction>;
}

export interface Data {
  readonly version_data: string;
  readonly Dataset: {
    prototype: {
      shuffle(bufferSize: number, seed?: string, reshuffleEachIteration?: boolean): unknown;
    };
  };
}
