"""The data's way: crawl -> extract -> download -> filter -> dedup -> balance -> shard.

A stage's module holds its configuration and ``run``; what its workers do is in modules named after it
(``download_shard``). ``web`` fetches for crawl and download, ``html`` reads pages for crawl and extract.
"""
