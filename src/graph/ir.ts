/**
 * The graph in memory: ONNX's own concepts as plain data. Values are named strings in single
 * assignment form, so a pass is a function from graph to graph and never chases pointers.
 */

export type DataType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int8'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'uint8'
  | 'uint16'
  | 'uint32'
  | 'uint64'
  | 'bool'
  | 'string';

/** A number, or a symbol such as `batch_size` that is bound when shapes are inferred; '' has no name. */
export type Dim = number | string;

/** A constant. `data` holds little-endian elements back to back; it may be a view into the file. */
export interface Tensor {
  dtype: DataType;
  dims: readonly number[];
  data: Uint8Array;
}

export type Attribute =
  | { type: 'float'; value: number }
  | { type: 'int'; value: number }
  | { type: 'string'; value: string }
  | { type: 'tensor'; value: Tensor }
  | { type: 'floats'; value: readonly number[] }
  | { type: 'ints'; value: readonly number[] }
  | { type: 'strings'; value: readonly string[] }
  | { type: 'graph'; value: Graph };

export interface Node {
  name: string;
  opType: string;
  /** '' is ai.onnx; 'com.microsoft' ONNX Runtime's; 'deepspeed' our fused operators. */
  domain: string;
  /** An absent optional input or output is ''. */
  inputs: string[];
  outputs: string[];
  attributes: Record<string, Attribute>;
  /** Free-form: `segment` names the layer a model builder put the node in. */
  metadata?: Record<string, string>;
}

export interface ValueInfo {
  name: string;
  dtype: DataType;
  /** Absent: unknown rank. */
  shape?: readonly Dim[];
}

export interface Graph {
  name: string;
  inputs: ValueInfo[];
  outputs: ValueInfo[];
  /** Parameters and constants, by value name. */
  initializers: Map<string, Tensor>;
  /** Topologically sorted. */
  nodes: Node[];
  /** Types known for inner values; a hint, never the truth. */
  valueInfo: Map<string, ValueInfo>;
}

export interface Model {
  irVersion: number;
  producerName: string;
  /** Domain ('' = ai.onnx) → version. */
  opsets: Map<string, number>;
  graph: Graph;
  metadata: Map<string, string>;
}

/** What shape inference knows of one value once the inputs' shapes are concrete. */
export interface ValueType {
  dtype: DataType;
  shape: readonly number[];
  /** Present when the value does not depend on any graph input: folded. */
  constant?: Tensor;
}
