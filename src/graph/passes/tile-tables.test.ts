/** Tables in tiles of rows against the same tables whole: losses, scores and gradients of a model. */
import { describe, expect, it } from 'vitest';
import { AutoModelForCausalLM } from '../../hosts/onnx/causal-lm.ts';
import { planModel } from '../../hosts/onnx/outline.ts';

const config = (tied: boolean) => ({
  model_type: 'gpt2',
  vocab_size: 23,
  n_positions: 8,
  n_embd: 8,
  n_layer: 2,
  n_head: 2,
  tie_word_embeddings: tied,
});

function plan(tied: boolean, tileAbove?: number) {
  const model = AutoModelForCausalLM.fromConfig(config(tied));
  const rows = [{ input_ids: [1, 22, 7, 8, 3] }, { input_ids: [5, 6, 0] }];
  const batch = model.collate(rows, [0, 1], { rows: 2, padToMultipleOf: 1 });
  return planModel(model, batch, { tileAbove });
}

describe('what is tiled', () => {
  it('an embedding and a head, each tile a segment of its own', () => {
    // 23 rows of 8: at most 56 elements, 7 rows a tile.
    const { segments, tiles, parameters, replaced } = plan(true, 112);
    const wte = 'transformer.wte.weight';
    expect(tiles.map(({ name }) => name)).toEqual([
      `${wte}[0:7]`,
      `${wte}[7:14]`,
      `${wte}[14:21]`,
      `${wte}[21:23]`,
    ]);
    const part = (of: string) => [0, 1, 2, 3].map((index) => `${of}/tile.${index}`);
    expect(segments.map(({ name }) => name)).toEqual([
      ...part('embed'),
      'embed',
      'layer.0',
      'layer.1',
      'head',
      ...part('head'),
      'head/tile.sum',
    ]);
    const tile = parameters.find(({ name }) => name === `${wte}[7:14]`)!;
    expect(tile).toMatchObject({ shape: [7, 8], segments: [1, 9], trainable: true });
    expect(replaced).toContain(`${wte}: 4 tiles of rows`);
  });

  it('nothing that fits', () => {
    expect(plan(true, 23 * 8).tiles).toEqual([]);
    expect(plan(true).segments.map(({ name }) => name)).toEqual(
      plan(true, 23 * 8).segments.map(({ name }) => name),
    );
  });

  it('training hands no scores from tile to tile', () => {
    const { segments } = plan(false, 112);
    const sum = segments.at(-1)!;
    const logits = sum.inference.inputs.filter(({ shape }) => shape.length === 3);
    expect(logits).toHaveLength(4);
    expect(sum.forward.inputs.filter(({ shape }) => shape.length === 3)).toEqual([]);
  });
});
