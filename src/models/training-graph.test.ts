import { describe, expect, it } from 'vitest';
import { toNumbers } from '../graph/tensor.ts';
import { parseModelConfig } from './config.ts';
import {
  goldenCases,
  int64,
  int64Of,
  loadGolden,
  maxDifference,
  meanLoss,
  runGraph,
} from './testing/goldens.ts';
import { buildTrainingGraph } from './training-graph.ts';

// Goldens are float64 rounded to float32; our graphs compute in float32. Logits are of size 1 and come
// from sums of some hundred products, so a few hundred units of 6e-8 is the most that rounding explains.
const rounding = 1e-5;

describe.each(goldenCases)('training graph of %s', (name) => {
  const golden = loadGolden(name);
  const inputIds = int64Of(golden.tensors.get('input_ids')!);
  const labels = toNumbers(golden.tensors.get('labels')!);

  it('computes the loss and logits of PyTorch', async () => {
    const graph = buildTrainingGraph(golden.config, { parameters: golden.parameters });
    const feeds = { input_ids: inputIds, labels: int64(inputIds.dims, labels) };
    const { loss, logits } = await runGraph(graph, feeds);
    const losses = loss!.data as Float32Array;
    expect(Math.abs(meanLoss(losses, labels) - golden.loss)).toBeLessThan(rounding);
    labels.forEach((label, i) => {
      if (label === -100) expect(Math.abs(losses[i]!)).toBe(0);
    });
    const expected = toNumbers(golden.tensors.get('logits')!);
    expect(maxDifference(logits!.data as Float32Array, expected)).toBeLessThan(rounding);
  });

  it('hides padding keys where an attention mask says so', async () => {
    const mask = toNumbers(golden.tensors.get('attention_mask')!);
    const visible = labels.map((label, i) => (mask[i] === 0 ? -100 : label));
    const options = { attentionMask: true, parameters: golden.parameters };
    const { loss } = await runGraph(buildTrainingGraph(golden.config, options), {
      input_ids: inputIds,
      labels: int64(inputIds.dims, visible),
      attention_mask: int64(inputIds.dims, mask),
    });
    const mean = meanLoss(loss!.data as Float32Array, visible);
    expect(Math.abs(mean - golden.masked_loss)).toBeLessThan(rounding);
  });

  it('puts every node that depends on a parameter into a segment', () => {
    const graph = buildTrainingGraph(golden.config);
    const dependent = new Set(golden.parameters.keys());
    for (const node of graph.nodes) {
      if (!node.inputs.some((input) => dependent.has(input))) continue;
      for (const output of node.outputs) dependent.add(output);
      expect(node.metadata?.segment, node.name).toMatch(/^(embed|layer\.\d+|head)$/);
    }
  });
});

it('fixes dimensions on request and checks them against the position embeddings', () => {
  const config = parseModelConfig({
    model_type: 'gpt2',
    n_positions: 16,
    n_layer: 1,
    vocab_size: 8,
  });
  const graph = buildTrainingGraph(config, { batchSize: 2, sequenceLength: 16 });
  expect(graph.inputs.map((input) => input.shape)).toEqual([
    [2, 16],
    [2, 16],
  ]);
  expect(() => buildTrainingGraph(config, { sequenceLength: 17 })).toThrow(
    /17 tokens.*16 positions/,
  );
});

it('allocates nothing for parameters that are bound later, however large', () => {
  // 32 TiB of embeddings: more than an array holds, and than a machine has.
  const config = parseModelConfig({
    model_type: 'gpt2',
    n_layer: 1,
    n_embd: 8192,
    n_head: 8,
    vocab_size: 2 ** 30,
  });
  const { initializers } = buildTrainingGraph(config, { batchSize: 1, sequenceLength: 8 });
  const embedding = initializers.get('transformer.wte.weight')!;
  expect(embedding.dims).toEqual([2 ** 30, 8192]);
  expect(embedding.data.byteLength).toBe(0);
});

it('drops out where the config asks, and nowhere with dropout: false', () => {
  const config = parseModelConfig({ model_type: 'gpt2', n_layer: 1, vocab_size: 8 });
  const ratios = (graph: ReturnType<typeof buildTrainingGraph>) =>
    graph.nodes.filter((node) => node.opType === 'Dropout').length;
  expect(ratios(buildTrainingGraph(config))).toBe(4);
  expect(ratios(buildTrainingGraph(config, { dropout: false }))).toBe(0);
});
