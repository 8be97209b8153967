//! The redaction policy: a YAML file compiled into tables of the fields that may be kept.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::stripe::Error;

/// The version of the file's format.
const VERSION: u32 = 1;

/// What may be kept of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// A scalar, an array of scalars, or the id of an expanded object.
    Scalar,
    /// As `Scalar`, but text is scanned first.
    Text,
    /// The fields of a table, of an object or of each object in an array; with `or_id` also an id in its place.
    Fields {
        /// Which table.
        table: usize,
        /// Whether an id may stand in its place.
        or_id: bool,
    },
    /// The event's own object: by its type.
    Object,
}

/// The fields that may be kept of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Sorted by name.
    fields: Vec<(Box<str>, Rule)>,
    /// The rule of fields named after currencies.
    currencies: Option<Rule>,
}

impl Table {
    /// The rule of a field.
    pub(super) fn field(&self, name: &str) -> Option<Rule> {
        let at = self.fields.binary_search_by(|(field, _)| (**field).cmp(name)).ok()?;
        Some(self.fields[at].1)
    }

    /// The rule of fields named after currencies.
    pub(super) fn currencies(&self) -> Option<Rule> {
        self.currencies
    }
}

/// The compiled policy.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    tables: Vec<Table>,
    objects: HashMap<String, usize>,
    event: usize,
    other: usize,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    event: Shape,
    other: Shape,
    shapes: BTreeMap<String, Shape>,
    objects: BTreeMap<String, Shape>,
}

/// What is kept of one object: dotted paths, arrays transparent, `*` for every currency.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Shape {
    /// Paths of values that identify no person.
    #[serde(default)]
    keep: Vec<String>,
    /// Paths of free text that is kept, but scanned.
    #[serde(default)]
    text: Vec<String>,
    /// Paths of objects, or arrays of them, that are kept as another shape or object is. Where that keeps its `id`,
    /// an id may stand in its place.
    #[serde(default)]
    like: BTreeMap<String, String>,
}

impl Shape {
    fn has_id(&self) -> bool {
        self.keep.iter().any(|path| path == "id")
    }
}

/// The table of each name, and whether its objects have an id.
type Index<'a> = HashMap<&'a str, (usize, bool)>;

/// A field while the file is compiled.
enum Draft {
    Rule(Rule),
    Fields(DraftFields),
}

type DraftFields = BTreeMap<String, Draft>;

impl Policy {
    pub(super) fn from_yaml(yaml: &str) -> Result<Self, Error> {
        let file: File = serde_yaml_ng::from_str(yaml).map_err(|error| Error::Policy(error.to_string()))?;
        if file.version != VERSION {
            return Err(Error::Policy(format!(
                "version {} is not {VERSION}, the one this program reads",
                file.version
            )));
        }
        // Tables 0 and 1 are the event's and that of other objects; then one for each name, then those inside them.
        let names: Vec<(&String, &Shape)> = file.shapes.iter().chain(&file.objects).collect();
        let index: Index<'_> =
            names.iter().enumerate().map(|(at, (name, shape))| (name.as_str(), (at + 2, shape.has_id()))).collect();
        if index.len() < names.len() {
            return Err(Error::Policy("a name is both a shape and an object".to_owned()));
        }
        let mut tables = vec![Table::default(); names.len() + 2];
        let mut event = draft("event", &file.event, &index)?;
        for path in ["data.object", "data.previous_attributes"] {
            insert(&mut event, "event", path, Rule::Object)?;
        }
        tables[0] = compile(event, &mut tables);
        let other = draft("other", &file.other, &index)?;
        tables[1] = compile(other, &mut tables);
        for (at, (name, shape)) in names.iter().enumerate() {
            let fields = draft(name, shape, &index)?;
            tables[at + 2] = compile(fields, &mut tables);
        }
        let objects = file.objects.keys().map(|name| (name.clone(), index[name.as_str()].0)).collect();
        Ok(Self { tables, objects, event: 0, other: 1 })
    }

    pub(super) fn table(&self, table: usize) -> &Table {
        &self.tables[table]
    }

    /// The rule of a whole event.
    pub(super) fn event(&self) -> Rule {
        Rule::Fields { table: self.event, or_id: false }
    }

    /// The rule of objects of a type, if the policy names it.
    pub(super) fn object(&self, name: &str) -> Option<Rule> {
        self.objects.get(name).map(|table| Rule::Fields { table: *table, or_id: false })
    }

    /// The rule of objects of any other type.
    pub(super) fn other(&self) -> Rule {
        Rule::Fields { table: self.other, or_id: false }
    }
}

/// Whether a byte may stand in a key: what Stripe's field names are made of.
pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')
}

fn draft(name: &str, shape: &Shape, index: &Index<'_>) -> Result<DraftFields, Error> {
    let mut fields = DraftFields::new();
    for path in &shape.keep {
        insert(&mut fields, name, path, Rule::Scalar)?;
    }
    for path in &shape.text {
        insert(&mut fields, name, path, Rule::Text)?;
    }
    for (path, like) in &shape.like {
        let table = index.get(like.as_str());
        let (table, or_id) =
            *table.ok_or_else(|| Error::Policy(format!("{name}.{path} is like `{like}`, which is not there")))?;
        insert(&mut fields, name, path, Rule::Fields { table, or_id })?;
    }
    Ok(fields)
}

fn insert(fields: &mut DraftFields, name: &str, path: &str, rule: Rule) -> Result<(), Error> {
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    if step != "*" && (step.is_empty() || !step.bytes().all(is_plain)) {
        return Err(Error::Policy(format!("{name}: `{step}` is not a field; write dotted paths such as `items.data`")));
    }
    let twice = || Error::Policy(format!("{name}: `{path}` is named twice, or both whole and in part"));
    match (rest, fields.get_mut(step)) {
        (None, None) => {
            fields.insert(step.to_owned(), Draft::Rule(rule));
            Ok(())
        }
        (Some(rest), Some(Draft::Fields(inner))) => insert(inner, name, rest, rule),
        (Some(rest), None) => {
            let mut inner = DraftFields::new();
            insert(&mut inner, name, rest, rule)?;
            fields.insert(step.to_owned(), Draft::Fields(inner));
            Ok(())
        }
        _ => Err(twice()),
    }
}

fn compile(fields: DraftFields, tables: &mut Vec<Table>) -> Table {
    let mut table = Table::default();
    for (name, field) in fields {
        let rule = match field {
            Draft::Rule(rule) => rule,
            Draft::Fields(inner) => {
                let inner = compile(inner, tables);
                tables.push(inner);
                Rule::Fields { table: tables.len() - 1, or_id: false }
            }
        };
        if name == "*" {
            table.currencies = Some(rule);
        } else {
            table.fields.push((name.into(), rule));
        }
    }
    table
}
