/** What a probe adds up, and what must come out of it. */

/** Of the member with this place: so that every share of a sum counts. */
export const shareOf = (member: number): number => member + 1;

/** @throws Error where an element is not the sum of all members' shares. */
export function verifySum(result: Float32Array, members: number): void {
  const sum = (members * (members + 1)) / 2;
  const wrong = result.findIndex((value) => value !== sum);
  if (wrong >= 0)
    throw new Error(`element ${wrong} of the sum is ${result[wrong]}, and should be ${sum}`);
}
