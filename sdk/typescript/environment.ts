/** The application's environment. */

import { currentHost } from "./host.js";

/** Return an environment variable as given to `plexspaces deploy --env`. */
export function env(name: string): string | undefined {
  return currentHost().env(name);
}
