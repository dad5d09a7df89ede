"""The data's way: crawl -> extract -> download -> filter -> dedup -> balance -> shard. One module a stage."""
