//! Who reads beside an engine reads all tables as of one checkpoint, whatever the engine has applied since.

use std::{fs, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, Int8Array, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::Schema,
};
use datafusion::prelude::SessionContext;
use tributary::{
    sink::{TableSpec, change_schema, delta::DeltaTable},
    storage::Location,
    tables,
};

use super::support::{Said, Site, files};

fn spec(name: &str) -> TableSpec {
    let table = tables::get(name).unwrap();
    TableSpec {
        name: name.to_owned(),
        schema: Arc::clone(&table.schema),
        key: table.key.clone(),
        partition_by: Vec::new(),
    }
}

fn at(dir: &Path) -> Location {
    Location::directory(dir).unwrap()
}

/// Applies to one table what its next checkpoint may bring: all its rows go.
async fn empty_one(root: &Location, name: &str) {
    let mut table = DeltaTable::open_or_create(root, spec(name)).await.unwrap();
    let schema = spec(name).schema;
    let rows = SessionContext::new().read_table(table.provider()).unwrap().collect().await.unwrap();
    let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
    assert!(rows.num_rows() > 0, "{name} is empty already");
    let of_contract = rows.columns().iter().zip(schema.fields());
    let mut columns: Vec<ArrayRef> =
        of_contract.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
    columns.push(Arc::new(Int8Array::from(vec![-1; rows.num_rows()])));
    let changes = RecordBatch::try_new(change_schema(&schema), columns).unwrap();
    let next = table.applied_through() + 1;
    assert!(table.upsert(next, &[changes]).await.unwrap());
}

/// Makes one table anew with other columns, as `apply` does before its checkpoint.
async fn make_anew(root: &Location, name: &str) {
    let mut other = spec(name);
    other.schema = Arc::new(Schema::new(other.schema.fields()[..5].to_vec()));
    DeltaTable::make_anew(root, other).await.unwrap();
}

const COMMANDS: [&str; 6] = [
    "query --file mrr_daily.sql --output csv",
    "query --file arpa.sql --output csv",
    "diff arpa --params empty.toml",
    "plan",
    "backtest mrr_daily --from 2024-02-01 --to 2024-03-01 --output csv",
    "check",
];

const QUERIES: [(&str, &str); 3] = [
    ("--output csv", "SELECT * FROM mrr_daily ORDER BY day, currency"),
    ("--output csv", "SELECT * FROM mrr_movements ORDER BY movement_id"),
    ("--output csv --as-of 2024-02-20", "SELECT day, currency, closing FROM mrr_daily ORDER BY day, currency"),
];

/// What every kind of reader says.
fn all_said(site: &Site) -> Vec<(String, String)> {
    let commands = COMMANDS.iter().map(|command| ((*command).to_owned(), site.command(command)));
    let queries = QUERIES.iter().map(|(options, sql)| {
        let mut command = site.command(&format!("query {options}"));
        command.arg(sql);
        ((*sql).to_owned(), command)
    });
    let said = commands.chain(queries).map(|(what, mut command)| {
        let said = Said::of(command.args(["--data-dir", "data"]).output().unwrap());
        assert_eq!(said.code, 0, "{what}\n{}", said.err);
        assert!(said.out.lines().count() > 2 || what == "plan", "{what}: {}", said.out);
        (what, said.out)
    });
    said.collect()
}

#[tokio::test]
async fn readers_beside_an_engine_see_one_checkpoint_and_say_so_when_its_files_are_gone() {
    let site = Site::new();
    for name in ["mrr_daily.sql", "arpa.sql"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name), site.path(name)).unwrap();
    }
    site.write("empty.toml", "");
    site.simulate("events.jsonl", "--customers 40 --months 4 --seed 51");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");
    let before = all_said(&site);
    let root = at(&site.path("data/tables"));

    // Between a table's commit and the row of the checkpoint, one is ahead of the others, and one has other columns.
    empty_one(&root, "mrr_movements").await;
    make_anew(&root, "mrr_daily").await;
    assert_eq!(all_said(&site), before);

    // Long after, what the version needs is gone.
    for file in files(&site.path("data/tables/mrr_movements")) {
        if file.extension().is_some_and(|extension| extension == "parquet") {
            fs::remove_file(file).unwrap();
        }
    }
    for command in ["query --data-dir data SELECT", "plan --data-dir data"] {
        let said = Said::of(site.command(command).output().unwrap());
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{command}");
        let said = said.words();
        assert!(said.contains("mrr_movements no longer has version") && said.contains("ask again"), "{said}");
    }

    // Without a row of `commits` there is no checkpoint that a reader could see.
    fs::rename(site.path("data/tables/commits"), site.path("commits")).unwrap();
    let said = Said::of(site.command("query --data-dir data SELECT").output().unwrap());
    assert!(said.code == 1 && said.err.contains("there are no tables"), "{}", said.err);
}
