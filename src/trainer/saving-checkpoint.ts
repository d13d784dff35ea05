import type { PendingCheckpoint } from '../hooks/index.ts';

/** A checkpoint that is on its way to `folder`. */
export class SavingCheckpoint {
  readonly folder: string;
  readonly #pending: PendingCheckpoint;
  #isLoadable = false;

  constructor(folder: string, pending: PendingCheckpoint) {
    this.folder = folder;
    this.#pending = pending;
  }

  /** See PendingCheckpoint. */
  read(): Promise<void> {
    return this.#pending.read();
  }

  get isReady(): boolean {
    return this.#pending.isReady;
  }

  /** And what is beyond `saveTotalLimit` has been deleted. */
  get isLoadable(): boolean {
    return this.#isLoadable;
  }

  /** Collective. Waits for nobody where all ranks are ready. */
  async proceed(): Promise<void> {
    if (!this.#isLoadable) this.#isLoadable = (await this.#pending.proceed()) !== null;
  }

  /** Collective. Waits until it is loadable. */
  async finish(): Promise<void> {
    if (!this.#isLoadable) await this.read();
    while (!this.#isLoadable) await this.proceed();
  }
}
