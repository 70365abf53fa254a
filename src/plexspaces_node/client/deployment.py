"""`ApplicationDeployment`: describe a deploy step by step, run it, and keep a handle."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.api.convert import language_named
from plexspaces_node.client.node import NodeClient
from plexspaces_node.client.options import DeployOptions, OnProgress
from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.info import ApplicationInfo, InvokeResult, LogLine
from plexspaces_node.model import Language, VmConfig, check_full_name, check_name


class ApplicationDeployment:
    """A deploy, described step by step; every step returns the same object.

    Errors raise `InvalidArgument` in the step where they can be detected, otherwise in `deploy`.
    """

    def __init__(self, name: str) -> None:
        check_full_name(name)
        self._name = name
        self._wasm: Path | bytes | None = None
        self._options = DeployOptions()
        self._node: NodeClient | str = DEFAULT_ADDRESS

    def __repr__(self) -> str:
        return f"<ApplicationDeployment {self._name!r}>"

    def with_wasm(self, wasm: str | Path | bytes) -> Self:
        """Deploy this WebAssembly file, or these bytes."""
        self._wasm = Path(wasm) if isinstance(wasm, str) else wasm
        return self

    def with_language(self, language: Language | str) -> Self:
        """Set the language; without this the node detects it from the file."""
        return self._with(replace(self._options, language=language_named(language)))

    def with_vm_config(self, config: VmConfig) -> Self:
        """Request a VM of this size instead of the node's default."""
        size = replace(self._options, vcpus=config.vcpus, memory_mib=config.memory_mib)
        return self._with(size)

    def with_env(self, env: Mapping[str, str]) -> Self:
        """Add environment variables for the application."""
        return self._with(replace(self._options, env={**self._options.env, **env}))

    def with_secrets(self, secrets: Mapping[str, str]) -> Self:
        """Give variables the values of secrets, by the secrets' names."""
        merged = {**self._options.secrets, **secrets}
        return self._with(replace(self._options, secrets=merged))

    def with_args(self, *args: str) -> Self:
        """Give a command arguments after its name, the same for every message."""
        return self._with(replace(self._options, args=args))

    def with_concurrency(self, messages: int) -> Self:
        """Let a command, or an HTTP component, handle this many messages at the same time."""
        return self._with(replace(self._options, concurrency=messages))

    def with_allowed_hosts(self, *hosts: str) -> Self:
        """Let the application send HTTP requests to these hosts, each `HOST` or `HOST:PORT`."""
        allowed = (*self._options.allow_hosts, *hosts)
        AllowedHosts.parse(allowed)
        return self._with(replace(self._options, allow_hosts=allowed))

    def with_public(self, public: bool = True) -> Self:
        """Let everybody send messages and requests to it, without a token; or no longer."""
        return self._with(replace(self._options, public=public))

    def with_version(self, version: str) -> Self:
        """Set the version of the application."""
        return self._with(replace(self._options, version=version))

    def with_vm(self, vm_id: str) -> Self:
        """Deploy into this empty VM instead of a new one."""
        check_name(vm_id, what="VM id")
        return self._with(replace(self._options, vm_id=vm_id))

    def with_replace(self) -> Self:
        """Replace an application of this name, if there is one; see `DeployOptions.replace`."""
        return self._with(replace(self._options, replace=True))

    def with_node(self, node: NodeClient | str) -> Self:
        """Deploy to the node at this address, or over this open client."""
        self._node = node
        return self

    async def deploy(self, *, on_progress: OnProgress | None = None) -> DeployedApplication:
        """Deploy and return a handle; the application can then answer messages.

        Raises what `NodeClient.deploy` raises, and `InvalidArgument` without `with_wasm`. A
        connection that was opened for this is closed again on failure.
        """
        if self._wasm is None:
            raise InvalidArgument(
                f"nothing to deploy as {self._name}", hint="call .with_wasm(path) before .deploy()"
            )
        owned = isinstance(self._node, str)
        client = NodeClient(self._node) if isinstance(self._node, str) else self._node
        if owned:
            await client.__aenter__()
        deployed = False
        try:
            info = await client.deploy(
                self._name, self._wasm, options=self._options, on_progress=on_progress
            )
            deployed = True
        finally:
            if owned and not deployed:
                await client.close()
        return DeployedApplication(client, info, owns_client=owned)

    def _with(self, options: DeployOptions) -> Self:
        self._options = options
        return self


class DeployedApplication:
    """A running application.

    As an async context manager it undeploys the application at the end of the block. Otherwise the
    application keeps running without the handle; `close` only ends the connection.

    Attributes:
        info: the application as it was when it was deployed.
    """

    def __init__(self, client: NodeClient, info: ApplicationInfo, *, owns_client: bool) -> None:
        self._client = client
        self._owns_client = owns_client
        self.info = info

    def __repr__(self) -> str:
        return f"<DeployedApplication {self.name!r} on {self._client.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._client.undeploy(self.name)
        except NotFound:
            # Somebody else has undeployed it inside the block, which is what leaving it is for.
            pass
        finally:
            await self.close()

    @property
    def name(self) -> str:
        """The application's name on its node."""
        return self.info.name

    async def invoke(
        self,
        payload: bytes = b"",
        *,
        type: str = "",
        timeout_s: float | None = None,
        traceparent: str = "",
    ) -> InvokeResult:
        """Send a message and return the reply; see `NodeClient.invoke`."""
        return await self._client.invoke(
            *(self.name, payload), type=type, timeout_s=timeout_s, traceparent=traceparent
        )

    async def inspect(self) -> ApplicationInfo:
        """Return the current description of the application."""
        return await self._client.inspect(self.name)

    def logs(
        self, *, follow: bool = False, tail: int = 0, trace_id: str = ""
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its log; see `NodeClient.logs`."""
        return self._client.logs(self.name, follow=follow, tail=tail, trace_id=trace_id)

    async def stop(self, *, force: bool = False) -> ApplicationInfo:
        """Stop it and keep its last snapshot; idempotent. See `NodeClient.stop`."""
        return await self._client.stop(self.name, force=force)

    async def start(self) -> ApplicationInfo:
        """Start it again from its last snapshot; idempotent."""
        return await self._client.start(self.name)

    async def undeploy(self) -> None:
        """Remove it from the node."""
        await self._client.undeploy(self.name)

    async def close(self) -> None:
        """End the connection if it was opened for this handle; idempotent."""
        if self._owns_client:
            await self._client.close()
