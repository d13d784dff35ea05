import { DeepSpeedError } from '../../errors.ts';
import { isNativeError } from '../../native/index.ts';

/**
 * Waits for a pass; what its graphs refuse while they run, such as a label outside the classes, becomes an
 * error that says when. Anything else, a peer that left for one, stays as it is.
 *
 * @param pass e.g. `step 3, micro batch 2`
 * @throws DeepSpeedError PASS_FAILED
 */
export async function endOfPass(work: Promise<void>, pass: string): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isNativeError(error) || error.code !== 'ORT_FAILED') throw error;
    throw new DeepSpeedError('PASS_FAILED', `${pass}: ${reason(error.message)}`, { cause: error });
  }
}

/** ONNX Runtime's own words without its frame; an operator of the engine names itself. */
function reason(message: string): string {
  const frame =
    /Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: /;
  const match = frame.exec(message);
  if (!match) return message;
  const rest = message.slice(match.index + match[0].length);
  return `node '${match[2]}' (${match[1]}): ${rest}`;
}
