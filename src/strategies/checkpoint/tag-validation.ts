import { DeepSpeedError } from '../../errors.ts';
import { gatherJson, type Peers } from '../agree.ts';

/** DeepSpeed's `checkpoint.tag_validation`. */
export type TagValidation = 'Warn' | 'Ignore' | 'Fail';

/**
 * The tag that all ranks save under: rank 0's. Every rank must call it.
 *
 * @param validation what to do when the ranks ask for different tags
 * @throws CHECKPOINT_TAG on every rank, for 'Fail'
 */
export async function agreeOnTag(
  peers: Peers,
  tag: string,
  validation: TagValidation,
): Promise<string> {
  const tags = await gatherJson(peers, tag);
  const common = tags[0]!;
  const other = tags.findIndex((one) => one !== common);
  if (other < 0 || validation === 'Ignore') return common;
  const message = `the ranks save under different tags: "${common}" on rank 0, "${tags[other]}" on rank ${other}`;
  if (validation === 'Fail') {
    throw new DeepSpeedError('CHECKPOINT_TAG', message, {
      fix: 'Make the tag from what all ranks share, such as the step; or set checkpoint.tag_validation to "Warn".',
      data: { tags },
    });
  }
  if (peers.communicator.rank === 0) {
    process.emitWarning(`${message}; rank 0's is used`, { code: 'DEEPSPEED_JS_TAGS' });
  }
  return common;
}
