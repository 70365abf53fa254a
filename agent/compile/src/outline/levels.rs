//! Nested modules and components: what each has, and what it needs when it is instantiated.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Instance, Payload, Result,
};

use crate::demand::Demand;
use crate::proposals::DAMAGED_HINT;
use crate::refusal::Refusal;

const MOST_LEVELS: usize = 16;

/// Pages of 64 KiB, unless a memory says otherwise.
const PAGE_SIZE_LOG2: u32 = 16;

/// The open levels, the outermost first; at the end only the outermost is left.
pub(super) struct Levels {
    open: Vec<Level>,
    outermost: Level,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// A module or component. Its index spaces hold what instances of each item need, or `None` if that
/// is not known, as for imports.
#[derive(Default)]
struct Level {
    is_component: bool,
    demand: Demand,
    modules: Vec<Option<Demand>>,
    components: Vec<Option<Demand>>,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            outermost: Level::default(),
            imports: Vec::new(),
            exports: Vec::new(),
        }
    }

    /// Whether the outermost has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// What an instance of the outermost level needs.
    pub(super) fn demand(&self) -> Demand {
        self.outermost.demand
    }

    /// What the outermost level imports; a core module's imports by module, sorted.
    pub(super) fn imports(&self, is_component: bool) -> Vec<String> {
        let mut imports = self.imports.clone();
        if !is_component {
            imports.sort();
            imports.dedup();
        }
        imports
    }

    /// What the outermost level exports.
    pub(super) fn exports(&self) -> Vec<String> {
        self.exports.clone()
    }

    /// Process a part of the file. The outer error is for a file that cannot be read.
    pub(super) fn see(
        &mut self,
        payload: &Payload<'_>,
    ) -> Result<std::result::Result<(), Refusal>> {
        match payload {
            Payload::Version { encoding, .. } => {
                let is_component = matches!(encoding, wasmparser::Encoding::Component);
                self.open.push(Level {
                    is_component,
                    ..Level::default()
                });
                if self.open.len() > MOST_LEVELS {
                    return Ok(Err(Refusal::new(
                        format!("it has components nested deeper than {MOST_LEVELS}"),
                        DAMAGED_HINT,
                    )));
                }
            }
            Payload::End(_) => self.close(),
            _ => {
                self.name(payload)?;
                if let Some((level, outer)) = self.open.split_last_mut() {
                    level.see(payload, outer)?;
                }
            }
        }
        Ok(Ok(()))
    }

    fn close(&mut self) {
        let Some(level) = self.open.pop() else { return };
        let Some(outer) = self.open.last_mut() else {
            self.outermost = level;
            return;
        };
        if level.is_component {
            outer.components.push(Some(level.demand));
        } else {
            let mut demand = level.demand;
            demand.instances = 1;
            outer.modules.push(Some(demand));
        }
    }

    fn name(&mut self, payload: &Payload<'_>) -> Result<()> {
        if self.open.len() != 1 {
            return Ok(());
        }
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    self.imports.push(import?.module.to_owned());
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    self.exports.push(export?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Level {
    fn see(&mut self, payload: &Payload<'_>, outer: &[Self]) -> Result<()> {
        match payload {
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    let memory = memory?;
                    let page = memory.page_size_log2.unwrap_or(PAGE_SIZE_LOG2);
                    self.demand.add_memory(memory.initial, page);
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    self.demand.add_table(table?.ty.initial);
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let taken = at(&self.modules, module_index);
                        self.demand.add(&taken.unwrap_or_default());
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate {
                        component_index, ..
                    } = instance?
                    {
                        let taken = at(&self.components, component_index);
                        self.demand.add(&taken.unwrap_or_default());
                        self.demand.components = self.demand.components.saturating_add(1);
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias?, outer);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => self.modules.push(None),
                        ComponentTypeRef::Component(_) => self.components.push(None),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export?;
                    match export.kind {
                        ComponentExternalKind::Module => {
                            self.modules.push(at(&self.modules, export.index));
                        }
                        ComponentExternalKind::Component => {
                            self.components.push(at(&self.components, export.index));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>, outer: &[Self]) {
        match *alias {
            ComponentAlias::InstanceExport { kind, .. } => match kind {
                ComponentExternalKind::Module => self.modules.push(None),
                ComponentExternalKind::Component => self.components.push(None),
                _ => {}
            },
            ComponentAlias::Outer { kind, count, index } => {
                // 0 is this component itself.
                let from = match (count as usize).checked_sub(1) {
                    None => Some(&*self),
                    Some(above) => outer.iter().rev().nth(above),
                };
                match kind {
                    ComponentOuterAliasKind::CoreModule => {
                        let taken = from.and_then(|from| at(&from.modules, index));
                        self.modules.push(taken);
                    }
                    ComponentOuterAliasKind::Component => {
                        let taken = from.and_then(|from| at(&from.components, index));
                        self.components.push(taken);
                    }
                    _ => {}
                }
            }
            ComponentAlias::CoreInstanceExport { .. } => {}
        }
    }
}

fn at(space: &[Option<Demand>], index: u32) -> Option<Demand> {
    space.get(index as usize).copied().flatten()
}
