//! Types of functions, spelled as in WIT, so that they can be compared and shown.
//!
//! Records are spelled out, because the name of a type is not part of it. The names of parameters
//! are left out, because no call uses them. This module does not know which types a function must
//! have.

use wasmparser::component_types::{ComponentDefinedType, ComponentFuncTypeId, ComponentValType};
use wasmparser::names::KebabString;
use wasmparser::types::TypesRef;

/// A longer type is not one of the contract's, and is cut.
const CHARACTERS: usize = 400;

/// Spell the type of a function, for example `func(string) -> list<u8>`.
pub(crate) fn spelled(types: TypesRef<'_>, function: ComponentFuncTypeId) -> String {
    let function = &types[function];
    let mut speller = Speller {
        types,
        text: String::new(),
    };
    speller.say(if function.async_ {
        "async func("
    } else {
        "func("
    });
    speller.list(function.params.iter().map(|(_, kind)| kind), Speller::value);
    speller.say(")");
    if let Some(result) = &function.result {
        speller.say(" -> ");
        speller.value(result);
    }
    if speller.is_full() {
        speller.text.push('…');
    }
    speller.text
}

struct Speller<'a> {
    types: TypesRef<'a>,
    text: String,
}

impl<'a> Speller<'a> {
    /// Types refer to types, so a short file can have a type of any length.
    fn is_full(&self) -> bool {
        self.text.len() >= CHARACTERS
    }

    fn say(&mut self, text: &str) {
        if !self.is_full() {
            self.text.push_str(text);
        }
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, each: impl Fn(&mut Self, T)) {
        for (number, item) in items.enumerate() {
            if self.is_full() {
                return;
            }
            if number > 0 {
                self.say(", ");
            }
            each(self, item);
        }
    }

    fn value(&mut self, kind: &ComponentValType) {
        if self.is_full() {
            return;
        }
        match kind {
            ComponentValType::Primitive(kind) => self.say(&kind.to_string()),
            ComponentValType::Type(id) => {
                let types: TypesRef<'a> = self.types;
                self.defined(types.get(*id));
            }
        }
    }

    fn defined(&mut self, kind: Option<&ComponentDefinedType>) {
        match kind {
            Some(ComponentDefinedType::Primitive(kind)) => self.say(&kind.to_string()),
            Some(ComponentDefinedType::List { element, .. }) => self.of("list", [Some(element)]),
            Some(ComponentDefinedType::Option { ty, .. }) => self.of("option", [Some(ty)]),
            Some(ComponentDefinedType::Map { key, value, .. }) => {
                self.of("map", [Some(key), Some(value)]);
            }
            Some(ComponentDefinedType::FixedLengthList {
                element, length, ..
            }) => {
                self.say("list<");
                self.value(element);
                self.say(&format!(", {length}>"));
            }
            Some(ComponentDefinedType::Tuple(tuple)) => {
                self.of("tuple", tuple.types.iter().map(Some));
            }
            Some(ComponentDefinedType::Result { ok, err, .. }) => match (ok, err) {
                (None, None) => self.say("result"),
                (ok, None) => self.of("result", [ok.as_ref()]),
                (ok, err) => self.of("result", [ok.as_ref(), err.as_ref()]),
            },
            Some(ComponentDefinedType::Future { ty, .. }) => self.payload("future", ty.as_ref()),
            Some(ComponentDefinedType::Stream { ty, .. }) => self.payload("stream", ty.as_ref()),
            Some(ComponentDefinedType::Record(record)) => {
                self.say("record { ");
                self.list(record.fields.iter(), |speller, (name, kind)| {
                    speller.say(name);
                    speller.say(": ");
                    speller.value(kind);
                });
                self.say(" }");
            }
            Some(ComponentDefinedType::Variant(variant)) => {
                self.say("variant { ");
                self.list(variant.cases.iter(), |speller, (name, case)| {
                    speller.say(name);
                    if let Some(kind) = &case.ty {
                        speller.say("(");
                        speller.value(kind);
                        speller.say(")");
                    }
                });
                self.say(" }");
            }
            Some(ComponentDefinedType::Enum(names)) => self.names("enum", names.iter()),
            Some(ComponentDefinedType::Flags(names)) => self.names("flags", names.iter()),
            Some(ComponentDefinedType::Own(_)) => self.say("own<resource>"),
            Some(ComponentDefinedType::Borrow(_)) => self.say("borrow<resource>"),
            None => self.say("unknown"),
        }
    }

    fn of<'b>(
        &mut self,
        name: &str,
        kinds: impl IntoIterator<Item = Option<&'b ComponentValType>>,
    ) {
        self.say(name);
        self.say("<");
        self.list(kinds.into_iter(), |speller, kind| match kind {
            Some(kind) => speller.value(kind),
            None => speller.say("_"),
        });
        self.say(">");
    }

    fn payload(&mut self, name: &str, kind: Option<&ComponentValType>) {
        match kind {
            Some(kind) => self.of(name, [Some(kind)]),
            None => self.say(name),
        }
    }

    fn names<'b>(&mut self, kind: &str, names: impl Iterator<Item = &'b KebabString>) {
        self.say(kind);
        self.say(" { ");
        self.list(names, |speller, name| speller.say(name));
        self.say(" }");
    }
}
