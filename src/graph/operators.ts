/**
 * The operators that deepspeed-js knows. A table typed over one of these unions must have an entry for
 * each of its operators, or it does not compile.
 */

/** Element by element, one input. */
export type UnaryOperator =
  | 'Abs'
  | 'Ceil'
  | 'Celu'
  | 'Cos'
  | 'Elu'
  | 'Erf'
  | 'Exp'
  | 'Floor'
  | 'Gelu'
  | 'HardSigmoid'
  | 'HardSwish'
  | 'LeakyRelu'
  | 'Log'
  | 'Mish'
  | 'Neg'
  | 'Reciprocal'
  | 'Relu'
  | 'Round'
  | 'Selu'
  | 'Sigmoid'
  | 'Sign'
  | 'Sin'
  | 'Softplus'
  | 'Softsign'
  | 'Sqrt'
  | 'Swish'
  | 'Tanh';

/** Element by element with broadcasting, two inputs of one type. */
export type BinaryOperator = 'Add' | 'Sub' | 'Mul' | 'Div' | 'Pow' | 'Mod' | 'PRelu';

/** Two inputs, bool output. */
export type ComparisonOperator =
  | 'Equal'
  | 'Greater'
  | 'GreaterOrEqual'
  | 'Less'
  | 'LessOrEqual'
  | 'And'
  | 'Or'
  | 'Xor';

export type ReduceOperator =
  | 'ReduceL1'
  | 'ReduceL2'
  | 'ReduceLogSum'
  | 'ReduceLogSumExp'
  | 'ReduceMax'
  | 'ReduceMean'
  | 'ReduceMin'
  | 'ReduceProd'
  | 'ReduceSum'
  | 'ReduceSumSquare';

/** Operators that move elements and compute none. */
export type LayoutOperator =
  | 'Concat'
  | 'Expand'
  | 'Flatten'
  | 'Gather'
  | 'GatherElements'
  | 'GatherND'
  | 'Identity'
  | 'Pad'
  | 'Reshape'
  | 'ScatterElements'
  | 'ScatterND'
  | 'Slice'
  | 'Split'
  | 'Squeeze'
  | 'Tile'
  | 'Transpose'
  | 'Trilu'
  | 'Unsqueeze';

/** Operators of ai.onnx. */
export type OnnxOperator =
  | UnaryOperator
  | BinaryOperator
  | ComparisonOperator
  | ReduceOperator
  | LayoutOperator
  | 'ArgMax'
  | 'ArgMin'
  | 'Attention'
  | 'Bernoulli'
  | 'Cast'
  | 'CastLike'
  | 'Clip'
  | 'Constant'
  | 'ConstantOfShape'
  | 'CumSum'
  | 'Dropout'
  | 'EyeLike'
  | 'Gemm'
  | 'Hardmax'
  | 'IsInf'
  | 'IsNaN'
  | 'LayerNormalization'
  | 'LogSoftmax'
  | 'MatMul'
  | 'Max'
  | 'Mean'
  | 'Min'
  | 'NegativeLogLikelihoodLoss'
  | 'Not'
  | 'OneHot'
  | 'RMSNormalization'
  | 'RandomNormalLike'
  | 'RandomUniformLike'
  | 'Range'
  | 'RotaryEmbedding'
  | 'Shape'
  | 'SimplifiedLayerNormalization'
  | 'Size'
  | 'Softmax'
  | 'SoftmaxCrossEntropyLoss'
  | 'Sum'
  | 'TopK'
  | 'Where';

/** Operators of com.microsoft that transformers' forward graphs use. */
export type MicrosoftOperator =
  | 'BiasGelu'
  | 'FastGelu'
  | 'FusedGemm'
  | 'FusedMatMul'
  | 'Gelu'
  | 'GroupQueryAttention'
  | 'MultiHeadAttention'
  | 'QuickGelu'
  | 'RotaryEmbedding'
  | 'SkipLayerNormalization'
  | 'SkipSimplifiedLayerNormalization';

/** Our fused operators: docs/operators.md. */
export type DeepSpeedOperator =
  | 'Accumulate'
  | 'Attention'
  | 'AttentionGrad'
  | 'Dropout'
  | 'DropoutGrad'
  | 'DropoutMask'
  | 'EmbeddingGradAccumulate'
  | 'Gelu'
  | 'GeluGrad'
  | 'LayerNormalization'
  | 'LayerNormalizationGrad'
  | 'LinearCrossEntropy'
  | 'LinearCrossEntropyGrad'
  | 'MatMul'
  | 'MatMulAccumulate'
  | 'RMSNormalization'
  | 'RMSNormalizationGrad'
  | 'RotaryEmbedding'
  | 'Silu'
  | 'SiluGrad'
  | 'SiluMul'
  | 'SiluMulGrad'
  | 'SoftmaxCrossEntropy'
  | 'SoftmaxCrossEntropyGrad'
  | 'SoftmaxGrad';
