/** Folder of the package. */
export const root: string;
/** SHA-256 over the names and contents of the addon's sources, 16 hex digits. */
export function buildId(): string;
