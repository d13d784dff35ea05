/**
 * What a forward pass of training does to variables beside giving outputs: moving averages, a codebook, a counter
 * of a layer of the script's own. Nobody averages these over ranks.
 */
import type { Core, Variable } from './library.ts';

/** A variable that a pass has moved, and the values it came to. */
export interface Moved {
  readonly variable: Variable;
  readonly values: Float32Array | Int32Array | Uint8Array;
}

/** Runs `pass` and puts every variable of TensorFlow.js back to what it was before. */
export function undoingMoves<T>(core: Core, pass: () => T): { result: T; moved: Moved[] } {
  const before = Object.values(core.engine().registeredVariables).map((variable) => ({
    variable,
    dataId: variable.dataId, // not the clone's: on the wasm backend a clone is a copy
    value: variable.clone(),
  }));
  const result = pass();
  const moved: Moved[] = [];
  for (const { variable, dataId, value } of before) {
    if (variable.dataId !== dataId) {
      moved.push({ variable, values: variable.dataSync().slice() });
      variable.assign(value);
    }
    value.dispose();
  }
  return { result, moved };
}
