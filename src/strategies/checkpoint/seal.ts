import type { NativeAddon } from '../../native/contract.ts';
import type { Manifest } from './manifest.ts';

const unsealed = '00000000';
/** At the end of the text. */
const sealPattern = /"crc32c": "([0-9a-f]{8})"\n\}\n$/;

/** A manifest as text whose last key is the checksum of all of it, with zeros in the place of the checksum. */
export function seal(addon: NativeAddon, manifest: Manifest): string {
  const text = `${JSON.stringify({ ...manifest, crc32c: unsealed }, null, 1)}\n`;
  return text.replace(sealPattern, `"crc32c": "${checksum(addon, text)}"\n}\n`);
}

/** What is wrong with a text that says to be sealed, or null. */
export function brokenSeal(addon: NativeAddon, text: string): string | null {
  const said = sealPattern.exec(text)?.[1];
  if (said === undefined) return 'its checksum is not where it belongs';
  const is = checksum(addon, text.replace(sealPattern, `"crc32c": "${unsealed}"\n}\n`));
  return is === said ? null : `it has checksum ${is} and says ${said}`;
}

function checksum(addon: NativeAddon, text: string): string {
  return addon.crc32c(Buffer.from(text)).toString(16).padStart(8, '0');
}
