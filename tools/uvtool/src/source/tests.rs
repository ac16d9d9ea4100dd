use super::*;
use crate::view::samples;

/// Answers from the samples, in pages of `page` rows.
struct Pages {
    page: usize,
    asked: usize,
}

impl Pages {
    fn answer(&self, query: Query) -> Answer {
        match query {
            Query::Version => Answer::Version(samples::version()),
            Query::Issues => Answer::Issues(samples::issues()),
            Query::Resources => Answer::Resources(samples::resources()),
            Query::Devices { first } => {
                let rows: Vec<_> = samples::devices().into_iter().skip(first as usize).collect();
                let more = rows.len() > self.page;
                Answer::Devices { rows: rows.into_iter().take(self.page).collect(), more }
            }
            Query::Disks { first } => {
                let rows = samples::disks().into_iter().filter(|row| row.index >= first);
                let rows: Vec<_> = rows.collect();
                let more = rows.len() > self.page;
                Answer::Disks { rows: rows.into_iter().take(self.page).collect(), more }
            }
            Query::Partitions { after } => {
                let rows = samples::partitions().into_iter().filter(|row| row.number > after);
                let rows: Vec<_> = rows.collect();
                let more = rows.len() > self.page;
                Answer::Partitions { rows: rows.into_iter().take(self.page).collect(), more }
            }
            Query::List { after } => {
                let rows = samples::list().into_iter().filter(|row| row.number > after);
                let rows: Vec<_> = rows.collect();
                let more = rows.len() > self.page;
                Answer::List { rows: rows.into_iter().take(self.page).collect(), more }
            }
            Query::Partition { name } => {
                let all = samples::partitions();
                let rows = all.into_iter().filter(|row| row.name == name).collect();
                Answer::Partitions { rows, more: false }
            }
            Query::PageMap { first, .. } => {
                let rows = samples::map().into_iter().filter(|row| row.first + row.frames > first);
                // The rows are split at `first`, and at an index page.
                let rows = rows.flat_map(|mut row| {
                    let end = row.first + row.frames;
                    row.first = row.first.max(first);
                    let cut = (row.first + 1024).min(end);
                    let rest = MapRow { first: cut, frames: end - cut, ..row.clone() };
                    row.frames = cut - row.first;
                    [row, rest].into_iter().filter(|row| row.frames != 0)
                });
                Answer::PageMap(rows.take(self.page).collect())
            }
            Query::Compare { first } => {
                let next = (first + 16_384).min(262_144);
                let difference = |frame| Difference { frame, database: (3, false), monitor: None };
                let differences = if first == 16_384 { vec![difference(20_000)] } else { vec![] };
                Answer::Compared { next, differences }
            }
            Query::Log { from, most } => {
                let rows = samples::log(50).into_iter().skip(7).filter(|row| row.sequence >= from);
                let rows = rows.take(self.page.min(most as usize)).collect();
                Answer::Log { rows, oldest: 7, next: 50 }
            }
            Query::Arena { .. } | Query::Records { .. } | Query::Memory { .. } => {
                panic!("{query:?} is not asked")
            }
        }
    }
}

impl Source for Pages {
    fn request(&mut self, body: Body) -> Result<Answered, Error> {
        self.asked += 1;
        assert!(self.asked < 1000, "asks without end");
        let Body::Query(query) = body else {
            panic!("nothing is changed here");
        };
        Ok(Answered { version: 1, answer: self.answer(query) })
    }
}

#[test]
fn pci_functions_come_in_pages_from_the_first_on() {
    for page in [1, 2, 9] {
        let mut source = Pages { page, asked: 0 };
        assert_eq!(source.devices().unwrap(), samples::devices(), "pages of {page}");
        assert_eq!(source.asked, 2usize.div_ceil(page));
    }
    assert!(matches!(Pages { page: 0, asked: 0 }.devices(), Err(Error::Stuck(_))));
}

#[test]
fn one_that_is_not_there_is_an_error_that_names_the_others() {
    let mut source = Pages { page: 2, asked: 0 };
    assert_eq!(source.partition("web").unwrap().name, "web");
    assert_eq!(source.asked, 1);
    assert_eq!(
        source.partition("wep").unwrap_err().to_string(),
        "partition \"wep\": no such partition; \
         there are ultravisor, boot, command, monitor, web; \
         `uvtool definitions` shows those that are not started"
    );
}

/// Always gives the same answer.
struct Same(Answer);

impl Source for Same {
    fn request(&mut self, _: Body) -> Result<Answered, Error> {
        Ok(Answered { version: 1, answer: self.0.clone() })
    }
}

#[test]
fn pages_are_put_together() {
    for page in 1..8 {
        let mut source = Pages { page, asked: 0 };
        assert_eq!(source.partitions().unwrap(), samples::partitions());
        assert_eq!(source.list().unwrap(), samples::list());
        assert_eq!(source.page_map(262_144).unwrap(), samples::map());
        let (differences, compared) = source.compare(262_144).unwrap();
        assert_eq!((differences.len(), compared), (1, 262_144));
        let records = source.log(10).unwrap();
        let numbers: Vec<u64> = records.iter().map(|row| row.sequence).collect();
        assert_eq!(numbers, (40..50).collect::<Vec<_>>());
        assert_eq!(source.log(1000).unwrap().len(), 43, "what the ring still has");
        assert!(source.log(0).unwrap().is_empty());
    }
}

#[test]
fn the_last_range_ends_with_the_last_frame() {
    let map = Pages { page: 9, asked: 0 }.page_map(262_000).unwrap();
    assert_eq!(map.last().unwrap().frames, 204_800 - 144);
}

#[test]
fn pages_that_do_not_go_on_are_an_error() {
    let rows = samples::partitions();
    let mut again = Same(Answer::Partitions { rows, more: true });
    assert!(matches!(again.partitions(), Err(Error::Stuck(_))));
    let mut again = Same(Answer::List { rows: samples::list(), more: true });
    assert!(matches!(again.list(), Err(Error::Stuck(_))));
    let mut empty = Same(Answer::Partitions { rows: vec![], more: true });
    assert!(matches!(empty.partitions(), Err(Error::Stuck(_))));
    assert!(matches!(Same(Answer::PageMap(vec![])).page_map(1), Err(Error::Stuck(_))));
    let rows = samples::map().split_off(1);
    assert!(matches!(Same(Answer::PageMap(rows)).page_map(99), Err(Error::Stuck(_))));
    let mut still = Same(Answer::Compared { next: 0, differences: vec![] });
    assert!(matches!(still.compare(1), Err(Error::Stuck(_))));
    let mut log = Same(Answer::Log { rows: vec![], oldest: 0, next: u64::MAX });
    assert!(log.log(5).unwrap().is_empty());
}

#[test]
fn the_answer_to_another_question_is_an_error() {
    let mut source = Same(Answer::Applied(vec![]));
    assert!(matches!(source.version(), Err(Error::Other(_))));
    assert!(matches!(source.partitions(), Err(Error::Other(_))));
    assert!(matches!(source.resources(), Err(Error::Other(_))));
    assert!(matches!(source.page_map(1), Err(Error::Other(_))));
    assert!(matches!(source.log(1), Err(Error::Other(_))));
    assert!(matches!(source.compare(1), Err(Error::Other(_))));
}

/// Refuses the request, and keeps it.
struct Refuses(Option<Body>);

impl Source for Refuses {
    fn request(&mut self, body: Body) -> Result<Answered, Error> {
        self.0 = Some(body);
        Err(Error::Failure(Failure::Refused(samples::refusal().into())))
    }
}

#[test]
fn a_release_is_a_transaction_and_its_refusal_an_answer() {
    let mut source = Refuses(None);
    let refused = source.release(3, 0x8800, 2).unwrap();
    assert_eq!(refused, Err(samples::refusal()));
    let Some(Body::Transaction(transaction)) = source.0 else {
        panic!("no transaction");
    };
    let expected = Operation::ReleaseMemory {
        partition: Target::Number(3),
        ranges: vec![Range { first: 0x8800, frames: 2 }],
    };
    assert_eq!(transaction.operations, [expected]);
    assert!(Same(Answer::Applied(vec![])).release(3, 1, 1).unwrap().is_ok());
    let other = Answer::Version(samples::version());
    assert!(matches!(Same(other).release(3, 1, 1), Err(Error::Other(_))));
}
